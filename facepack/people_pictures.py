"""The people of a preview page: who is in several splits, and photos unlike the others of their name, side by side."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack import image
from facepack.descriptors import read_descriptors
from facepack.errors import JobError
from facepack.page import jpeg_uri
from facepack.people import APART, COLUMN, read_people
from facepack.pictures import printable
from facepack.preview_model import Picture
from facepack.reader import OpenBuild, decode_bgr

_NUM_GROUPS, _NUM_OF_GROUP, _THUMB_PX = 12, 6, 112


@dataclass(frozen=True)
class Group:
    """Images that belong together, under a line that says how."""

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class PeopleSection:
    """What facepack people says of a build."""

    num_images: int
    num_people: int
    num_of_several: int
    num_leaking: int
    faces: list[tuple[int, str]]
    """Images by how their face was found, and what that means."""
    leaking: list[Group]
    """Some of the people that are in more than one split."""
    num_apart: int | None
    """Photos unlike the others of their name; None where the dataset names nobody."""
    apart: list[Group]
    """The farthest of them, each before some of the others."""


def people_section(build: OpenBuild) -> PeopleSection | None:
    """What facepack people says of a build; None where it has not been asked, or of another state of the build."""
    try:
        people, described = read_people(build.location), read_descriptors(build.location)
    except JobError:
        return None
    places = pc.index_in(people["key"], value_set=build.table["key"].combine_chunks()).combine_chunks()
    rows = _Rows(build, places, people[COLUMN].to_numpy(), build.table["split"].take(places).to_pylist())
    counts = np.bincount(rows.people)
    splits_of: dict[int, Counter[str]] = {}
    for person, split in zip(rows.people.tolist(), rows.splits, strict=True):
        splits_of.setdefault(person, Counter())[split] += 1
    leaking = [person for person, splits in sorted(splits_of.items()) if len(splits) > 1]
    apart = people["apart"].fill_null(-1).to_numpy()
    is_named = people["apart"].null_count < len(people)
    return PeopleSection(
        num_images=len(people),
        num_people=len(counts),
        num_of_several=int((counts > 1).sum()),
        num_leaking=len(leaking),
        faces=described.meanings,
        leaking=[rows.of_person(person, splits_of[person]) for person in leaking[:_NUM_GROUPS]],
        num_apart=int((apart > APART).sum()) if is_named else None,
        apart=list(_apart(rows, apart)),
    )


@dataclass(frozen=True)
class _Rows:
    """The described images of a build: their rows in its manifest, the person on each, and their splits."""

    build: OpenBuild
    places: pa.Array
    people: "np.typing.NDArray[np.int32]"
    splits: list[str]

    def of_person(self, person: int, splits: Counter[str]) -> Group:
        """Some images of a person, of every split."""
        numbers = sorted(np.flatnonzero(self.people == person).tolist(), key=lambda number: self.splits[number])
        one_each = [next(number for number in numbers if self.splits[number] == split) for split in sorted(splits)]
        rest = [number for number in numbers if number not in one_each]
        shown = sorted((one_each + rest)[:_NUM_OF_GROUP], key=lambda number: self.splits[number])
        title = ", ".join(f"{number:,} in {split}" for split, number in sorted(splits.items()))
        return Group(f"person {person}: {title}", [self.picture(number, self.splits[number]) for number in shown])

    def picture(self, number: int, caption: str) -> Picture:
        """A described image."""
        row = self.places[number].as_py()
        image_hwc = decode_bgr(self.build.bytes(row), self.build.info, where=self.build.location)
        height, width = image_hwc.shape[:2]
        scale = min(1.0, _THUMB_PX / max(height, width))
        small_hwc = image.resize(
            image_hwc, width_px=max(1, round(width * scale)), height_px=max(1, round(height * scale))
        )
        source = printable(self.build.table["source"][row].as_py())
        return Picture(jpeg_uri(image.encode_jpeg(small_hwc, quality=85)), f"{caption} {source}")


def _apart(rows: _Rows, apart: "np.typing.NDArray[np.float32]") -> Iterator[Group]:
    """The photos that are farthest from the others of their name, each before some of these."""
    names = rows.build.info.configuration.described.labels_of("identity")
    named = next((name for name in names if name != COLUMN), None)
    if named is None:
        return
    of_name = rows.build.table[named].take(rows.places).fill_null(-1).to_numpy()
    for number in np.argsort(-apart, kind="stable")[:_NUM_GROUPS].tolist():
        if apart[number] <= APART:
            return
        others = [other for other in np.flatnonzero(of_name == of_name[number]).tolist() if other != number]
        pictures = [rows.picture(number, "unlike"), *(rows.picture(other, "") for other in others[: _NUM_OF_GROUP - 1])]
        yield Group(f"{named} {of_name[number]}: {apart[number]:.2f} from the middle of the others", pictures)
