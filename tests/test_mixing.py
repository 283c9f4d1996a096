"""Mixing: several builds are loaded as one, in an order that can be repeated, split over ranks and resumed."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make
from typer.testing import CliRunner

from facepack.cli import app
from facepack.drawn import synthetic
from facepack.errors import FieldError, UsageError
from trainer import evaluation, runs
from trainer.augment import Normalize, Resize
from trainer.data import ChannelStatistics
from trainer.loader import Loader
from trainer.run_record import RunRecord

Three = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def three(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Three:
    """Builds of drawn images; classes of the third are other ones in part, and its images are larger."""
    folder = tmp_path_factory.mktemp("mixing")
    synthetic.draw("celeba", folder / "more", num_images=120)
    make(celeba, folder / "a", samples_per_shard=20)
    make(folder / "more", folder / "b", samples_per_shard=20)
    make(folder / "more", folder / "c", samples_per_shard=20, classes="Bald,Eyeglasses", size="48")
    return folder / "a", folder / "b", folder / "c"


def loaded(builds: Any, **choices: Any) -> Loader:
    common: dict[str, Any] = {"split": "train", "batch_size": 16, "device": "cpu"}
    return Loader(builds, **(common | choices))


def test_each_sample_comes_once_with_its_pixels_labels_and_source(three: Three) -> None:
    a, b, _ = three
    mixture = loaded([a, b], augment=())
    alone = [loaded(place, augment=()) for place in (a, b)]
    num_rows = len(_rows(a))
    expected: dict[int, tuple[torch.Tensor, str, str]] = {}
    for loader, start in zip(alone, (0, num_rows), strict=True):
        names = loader.targets["class"].names
        for batch in loader:
            sources, codes = loader.sources(batch.rows), batch.targets["class"].tolist()
            for row, image, code, source in zip(batch.rows.tolist(), batch.images, codes, sources, strict=True):
                expected[row + start] = image, names[code], source
    rows: list[int] = []
    names = mixture.targets["class"].names
    for batch in mixture:
        sources = mixture.sources(batch.rows)
        for number, row in enumerate(batch.rows.tolist()):
            image, name, source = expected[row]
            assert torch.equal(batch.images[number], image)
            assert names[int(batch.targets["class"][number])] == name
            assert sources[number] == source
            rows.append(row)
    assert sorted(rows) == sorted(expected)
    assert len(rows) == mixture.num_samples
    with pytest.raises(FieldError, match="rows 99999: expected 0 to"):
        mixture.keys([99999])


def _rows(place: Path) -> list[str]:
    import pyarrow.parquet as pq

    keys: list[str] = pq.read_table(place / "manifest.parquet")["key"].to_pylist()
    return keys


def test_order_is_that_of_one_on_any_ranks_and_resumed(three: Three) -> None:
    common: dict[str, Any] = {"weights": [1, 3], "num_samples": 200, "seed": 5}
    alone = [batch.rows.tolist() for batch in loaded(three[:2], **common)]
    parts = [
        [batch.rows.tolist() for batch in loaded(three[:2], **common, rank=rank, world_size=2)] for rank in range(2)
    ]
    assert [first + second for first, second in zip(*parts, strict=True)] == alone
    stopped = loaded(three[:2], **common)
    batches = iter(stopped)
    first = [next(batches).rows.tolist() for _ in range(3)]
    resumed = loaded(three[:2], **common)
    resumed.load_state_dict(stopped.state_dict())
    stopped.close()
    assert first + [batch.rows.tolist() for batch in resumed] == alone
    with pytest.raises(UsageError, match="state of another loader"):
        loaded(three[0]).load_state_dict(resumed.state_dict())


def test_builds_are_drawn_by_their_weights(three: Three) -> None:
    mixture = loaded(three[:2], weights=[1, 3], num_samples=8000, batch_size=500)
    start = len(_rows(three[0]))
    counts = Counter(bool(row >= start) for batch in mixture for row in batch.rows.tolist())
    assert counts.total() == 8000
    assert counts[True] / 8000 == pytest.approx(0.75, abs=0.02)


def test_classes_are_the_union_by_name_and_sizes_must_agree(three: Three) -> None:
    a, _, c = three
    mixture = loaded([a, c], augment=(Resize((32, 32)), Normalize()))
    names = mixture.targets["class"].names
    assert names[:4] == loaded(a).targets["class"].names
    assert set(names[4:]) == set(loaded(c).targets["class"].names) - set(names[:4])
    assert mixture.size_hw == (32, 32)
    with pytest.raises(FieldError, match=r"the images differ in size, .* add Resize"):
        loaded([a, c])


def test_statistics_are_those_of_the_mixture(three: Three) -> None:
    builds = [loaded(place) for place in three[:2]]
    means, stds = (np.array([getattr(loader.build, name) for loader in builds]) for name in ("mean", "std"))
    for weights in (None, [1, 4]):
        shares = np.array(weights or [loader.num_samples for loader in builds], float)
        shares /= shares.sum()
        mean = shares @ means
        std = np.sqrt(shares @ (stds**2 + means**2) - mean**2)
        mixture = loaded(three[:2], augment=(Normalize(),), weights=weights)
        plain = loaded(three[:2], augment=(), weights=weights)
        batch, pixels = next(iter(mixture)), next(iter(plain)).images
        assert torch.equal(batch.rows, next(iter(loaded(three[:2], augment=(), weights=weights))).rows)
        expected = (pixels.double() / 255 - torch.tensor(mean)) / torch.tensor(std)
        assert torch.allclose(batch.images.double(), expected.permute(0, 3, 1, 2), atol=2e-5)


def test_targets_of_other_names_are_mapped(three: Three) -> None:
    mixture = loaded(three[:2], targets="who", target_names={"identity": "who"})
    expected = [loaded(place, targets="identity").targets["identity"].values for place in three[:2]]
    np.testing.assert_array_equal(mixture.targets["who"].values, np.concatenate(expected))
    bins = loaded(three[:2], targets="who:0-50,51-", target_names={"identity": "who"})
    assert bins.targets["who:0-50,51-"].names == ("0-50", "51-")


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"weights": [1]}, "weights: expected 2 numbers, one per build"),
        ({"weights": [1, -1]}, "weights .*: expected numbers, at least 0"),
        ({"weights": [0, 0]}, "weights .*: expected numbers, at least 0"),
        ({"weights": {"Bald": 2}}, "weights: expected 2 numbers, one per build"),
        ({"rows": [1]}, "rows: not with several builds"),
        ({"targets": "nobody"}, "targets nobody: the build has no such column"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(three: Three, choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(FieldError, match=reason):
        loaded(three[:2], **choices)
    with pytest.raises(FieldError, match="build: expected a folder or a URL, or several"):
        loaded([])


def test_command_trains_on_the_mixture_and_evaluates_it(three: Three, tmp_path: Path) -> None:
    settings = ["network=small_resnet(widths=(8, 16))", "epochs=1", "precision=32-true"]
    options = [option for setting in settings for option in ("--set", setting)]
    places = [option for place in three[:2] for option in ("--data", str(place))]
    out = tmp_path / "run"
    command = ["train", "celeba_rarest4_modern", *places, "--out", str(out), "--device", "cpu", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    run = runs.read(out)
    assert run.locations == [str(place) for place in three[:2]]
    assert run.statistics != ChannelStatistics.of(loaded(three[0]).build)
    scored = evaluation.evaluate(out, device="cpu")
    assert scored.folder == out
    num_valid = sum(loaded(place, split="valid").num_samples for place in three[:2])
    predictions = RunRecord.read(out).predictions("valid")
    assert predictions is not None
    assert len(predictions) == num_valid
