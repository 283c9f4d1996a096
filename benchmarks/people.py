"""Who is who: people told apart without names, and one's own face among strangers, on CelebA's identities.

    facepack build celeba --src data/celeba --images aligned --classes none --split 80/10/10 --out builds/celeba
    facepack describe builds/celeba
    python benchmarks/people.py builds/celeba --identities data/celeba/identity_CelebA.txt

prints pairwise precision and recall and B-cubed (Bagga and Baldwin 1998) of `facepack people`, on two halves of the
people and on all, and how often own_face_descriptor's rule knows somebody, and lets in a stranger.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from facepack.descriptors import read_descriptors
from facepack.people import NEAR, people_of
from facepack.reader import open_build
from trainer.models.face_descriptor import LIMITS

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Score = Callable[[Floats], npt.NDArray[np.float64]]

LEAST_PHOTOS, NUM_ASKED, NUM_NEGATIVES, REPEATS = 6, 2, 400, 3


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("--identities", type=Path, required=True)
    arguments = parser.parse_args()
    values, names = read(arguments.build, arguments.identities)
    print(f"{len(values):,} described images of {len(set(names.tolist())):,} people")
    print_people(values, names)
    print_own_faces(values, names)


def read(location: str, identities: Path) -> tuple[Floats, Numbers]:
    """The descriptors of a build (N, 128), and the person on each by the published list."""
    lines = (line.split() for line in identities.read_text(encoding="utf-8").splitlines() if line.strip())
    names = {name: int(person) for name, person in lines}
    described, table = read_descriptors(location), open_build(location).table
    rows = pc.index_in(described.keys, value_set=table["key"].combine_chunks())
    sources = table["source"].take(rows).to_pylist()
    return described.values, np.array([names[source.rpartition("/")[2]] for source in sources])


# People without names


def print_people(values: Floats, names: Numbers) -> None:
    """A line for each half of the people, by how near images have to be, and for all of them."""
    is_first = np.random.default_rng(0).permutation(names.max() + 1)[names] % 2 == 0
    print("\nfacepack people         near  pairs: precision  recall  B-cubed: precision  recall       F")
    for title, rows in (("first half of people", is_first), ("second half", ~is_first), ("all", is_first | ~is_first)):
        _print_row(title, near="alone", names=names[rows], people=np.arange(rows.sum()))
        for near in (0.8, 0.84, 0.86, NEAR, 0.9, 0.92):
            begun = time.process_time()
            people = people_of(values[rows], near=near)
            seconds = time.process_time() - begun
            _print_row(title, near=f"{near:.2f}", names=names[rows], people=people, seconds=seconds)


def _print_row(title: str, *, near: str, names: Numbers, people: Numbers, seconds: float = 0.0) -> None:
    pairs, cubed = pairwise(names, people), b_cubed(names, people)
    figures = "  ".join(f"{value:.4f}" for value in (*pairs, *cubed))
    print(f"{title:22s} {near:>5}  {figures}  {seconds:.1f} s of CPU")


def pairwise(names: Numbers, people: Numbers) -> tuple[float, float]:
    """Precision and recall over pairs of images."""
    both, told, true = (_num_pairs(counts) for counts in _counts(names, people))
    return both / told if told else 1.0, both / true if true else 1.0


def b_cubed(names: Numbers, people: Numbers) -> tuple[float, float, float]:
    """The mean over images of precision and recall of the group that each is in, and their harmonic mean."""
    both, told, true = _counts(names, people)
    pairs = list(zip(names.tolist(), people.tolist(), strict=True))
    precision = float(np.mean([both[name, person] / told[person] for name, person in pairs]))
    recall = float(np.mean([both[name, person] / true[name] for name, person in pairs]))
    return precision, recall, 2 * precision * recall / (precision + recall)


def _counts(names: Numbers, people: Numbers) -> "tuple[Counter[tuple[int, int]], Counter[int], Counter[int]]":
    pairs = zip(names.tolist(), people.tolist(), strict=True)
    return Counter(pairs), Counter(people.tolist()), Counter(names.tolist())


def _num_pairs(counts: "Counter[tuple[int, int]] | Counter[int]") -> int:
    return sum(number * (number - 1) // 2 for number in counts.values())


# One's own face


def print_own_faces(values: Floats, names: Numbers) -> None:
    """Accuracy on two photos of each person and two of others, and how many are known where few strangers are let in.

    Strangers are people that are neither known nor among the negatives.
    """
    counts = Counter(names.tolist())
    known = [person for person, number in sorted(counts.items()) if number >= LEAST_PHOTOS]
    others = np.random.default_rng(0).permutation([person for person in counts if person not in known])
    is_negative = np.isin(names, others[::2])
    strangers, negatives = values[np.isin(names, others[1::2])], values[is_negative]
    print(f"\n{len(known)} people of {LEAST_PHOTOS} photos and more; {len(strangers):,} photos of strangers")
    print("rule                    photos  accuracy  own refused  strangers let in  known at 1 %  at 0.1 %")
    for num_photos in (None, 3, 2, 1):
        for rule in (mean_distance, logistic):
            own: list[float] = []
            theirs: list[float] = []
            for score, asked in _trials(values, names, known=known, negatives=negatives, rule=rule, most=num_photos):
                own += score(asked).tolist()
                theirs += score(strangers).tolist()
            _print_rule(rule.__name__, num_photos=num_photos, own=np.array(own), theirs=np.array(theirs))


def _trials(
    values: Floats,
    names: Numbers,
    *,
    known: list[int],
    negatives: Floats,
    rule: Callable[[Floats, Floats], Score],
    most: int | None,
) -> Iterator[tuple[Score, Floats]]:
    """For each person and repeat the rule fitted to some photos, and the two others that are asked about."""
    for repeat in range(REPEATS):
        rng = np.random.default_rng(repeat)
        for person in known:
            rows = rng.permutation(np.flatnonzero(names == person))
            own = values[rows[NUM_ASKED:][:most]]
            yield rule(own, negatives[rng.permutation(len(negatives))[:NUM_NEGATIVES]]), values[rows[:NUM_ASKED]]


def mean_distance(own: Floats, negatives: Floats) -> Score:  # noqa: ARG001 - they teach it nothing
    """own_face_descriptor's rule: the distance from the mean of one's photos, against a limit by their number."""
    mean, limit = own.mean(axis=0), LIMITS[min(len(own), len(LIMITS)) - 1]
    return lambda asked: limit - np.linalg.norm(asked - mean, axis=1)


def logistic(own: Floats, negatives: Floats) -> Score:
    """Logistic regression against negatives, both classes weighing the same."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced", max_iter=2000)
    model.fit(np.concatenate([own, negatives]), [1] * len(own) + [0] * len(negatives))
    return lambda asked: model.decision_function(asked)


def _print_rule(
    name: str, *, num_photos: int | None, own: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]
) -> None:
    refused, let_in = float((own <= 0).mean()), float((theirs > 0).mean())
    ordered = np.sort(theirs)[::-1]
    known_at = [float((own > ordered[int(share * len(ordered))]).mean()) for share in (0.01, 0.001)]
    accuracy = 1 - (refused + let_in) / 2
    shown = "all but 2" if num_photos is None else f"{num_photos}"
    figures = f"{accuracy:8.4f}  {refused:11.4f}  {let_in:16.4f}  {known_at[0]:12.3f}  {known_at[1]:8.3f}"
    print(f"{name:22s} {shown:>9}  {figures}")


if __name__ == "__main__":
    main()
