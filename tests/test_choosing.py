"""Choosing: which samples of a build are loaded and how often, and how what cannot be is refused by name."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make

from facepack import manifest
from facepack.errors import FieldError, UsageError
from facepack.storage import Store
from trainer.feed import FeedSettings
from trainer.loader import Loader
from trainer.loading.location import location_of
from trainer.loading.samples import Choice, Samples


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("choosing") / "build"
    make(celeba, out, samples_per_shard=20)
    return out


@pytest.fixture(scope="module")
def table(build: Path) -> pa.Table:
    return manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)


def loaded(build: Path | str, **choices: Any) -> Loader:
    common: dict[str, Any] = {"split": "train", "batch_size": 32, "device": "cpu"}
    return Loader(build, **(common | choices))


def rows_of(loader: Loader) -> list[int]:
    with loader:
        return torch.cat([batch.rows[batch.mask] for batch in loader]).tolist()


def altered(build: Path, out: Path, columns: dict[str, Any]) -> Path:
    """A copy of a build whose manifest has some columns anew."""
    shutil.copytree(build, out)
    store = Store(str(out))
    table = manifest.read_table(store, manifest.MANIFEST_FILE)
    for name, values in columns.items():
        number, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(number, field, pa.array(values(table), field.type))
    manifest.write_table(store, manifest.MANIFEST_FILE, table=table)
    return out


def test_a_mask_over_the_manifest_chooses_its_rows(build: Path, table: pa.Table) -> None:
    is_bald = np.array(table["class"].to_pylist()) == "Bald"
    is_train = np.array(table["split"].to_pylist()) == "train"
    is_packed = np.array(table["status"].to_pylist()) == "packed"
    expected = np.flatnonzero(is_bald & is_train & is_packed).tolist()
    assert sorted(rows_of(loaded(build, rows=is_bald))) == expected
    assert sorted(rows_of(loaded(build, rows=table.to_pandas()["class"] == "Bald"))) == expected
    assert sorted(rows_of(loaded(build, rows=is_bald.tolist()))) == expected


def test_rows_that_cannot_be_loaded_are_refused_with_their_number(build: Path, table: pa.Table) -> None:
    of_valid = table["split"].to_pylist().index("valid")
    reject = next((n for n, status in enumerate(table["status"].to_pylist()) if status != "packed"), None)
    cases: list[tuple[Any, str]] = [
        (np.ones(7, bool), "rows a mask of 7: expected one of all 153 rows"),
        ([0, 99999, -1], "rows 99999: the first of 2 that are not among the 153 rows of the manifest"),
        ([-1], "rows -1: the first of 1 that are not among"),
        ([0, of_valid], f"rows {of_valid}: the first of 1 that are of another split"),
        ([1, 2, 1], "rows 1: the first of 1 that are named twice"),
        ([[1, 2]], "rows: expected row numbers"),
        ([1.0, 2.0], "rows: expected row numbers"),
        (["1"], "rows: expected row numbers"),
        (np.zeros(153, bool), "no packed sample of split train is among the rows"),
    ]
    if reject is not None:
        cases.append(([reject], f"rows {reject}: the first of 1 that are not packed"))
    for rows, reason in cases:
        with pytest.raises(UsageError, match=reason):
            loaded(build, rows=rows)


def test_rejects_are_refused_by_number_and_left_out_by_mask(build: Path, tmp_path: Path) -> None:
    changed = altered(build, tmp_path / "b", {"status": lambda t: ["no_face", *t["status"].to_pylist()[1:]]})
    with pytest.raises(FieldError, match="rows 0: the first of 1 that are not packed"):
        loaded(changed, rows=[0, 1])
    assert sorted(rows_of(loaded(changed, rows=np.arange(153) < 3))) == [1, 2]


def test_a_name_stands_for_a_list_of_one(build: Path) -> None:
    assert list(loaded(build, targets="class").targets)
    assert loaded(build, classes="Bald").targets["class"].names == ("Bald",)
    assert list(loaded(build, targets="attributes").targets) == ["attributes"]


def test_several_splits_are_loaded_together(build: Path, table: pa.Table) -> None:
    both = loaded(build, split=["valid", "train"], augment=())
    alone = {split: rows_of(loaded(build, split=split)) for split in ("train", "valid")}
    pixels: dict[int, torch.Tensor] = {}
    for split in ("train", "valid"):
        for batch in loaded(build, split=split, augment=(), feed=FeedSettings(shuffle=False)):
            pixels |= dict(zip(batch.rows.tolist(), batch.images, strict=True))
    rows: list[int] = []
    for batch in both:
        rows += batch.rows.tolist()
        assert all(
            torch.equal(image, pixels[row]) for row, image in zip(batch.rows.tolist(), batch.images, strict=True)
        )
    assert sorted(rows) == sorted(alone["train"] + alone["valid"])
    assert rows != sorted(rows)  # train is among them
    with pytest.raises(FieldError, match="split train: named twice"):
        loaded(build, split=["train", "train"])
    with pytest.raises(FieldError, match=r"split val: no packed sample in .*; it has train, valid, test"):
        loaded(build, split=["train", "val"])
    wrong: list[Any] = [[], None, 3, [1]]
    for split in wrong:
        with pytest.raises(FieldError, match=r"split .*: expected a name"):
            loaded(build, split=split)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"batch_size": 32.0}, "batch_size 32.0: expected a whole number"),
        ({"batch_size": True}, "batch_size True: expected a whole number"),
        ({"batch_size": "32"}, "batch_size '32': expected a whole number"),
        ({"seed": 1.5}, "seed 1.5: expected a whole number"),
        ({"targets": "class:1-2"}, "targets class:1-2: not a number"),
        ({"targets": "identity:"}, "targets identity:: expected ascending bins"),
        ({"targets": "box:1-2"}, "targets box:1-2: not a number"),
        ({"targets": "box"}, "targets box: .* samples have none of 4 numbers"),
        ({"targets": "landmarks"}, "targets landmarks: .* samples have none of 10 numbers"),
        ({"targets": 3}, "targets 3: expected a name, or a list of names"),
        ({"classes": [b"Bald"]}, "classes .*: expected a name, or a list of names"),
        ({"weights": {"Bold": 3}}, "weights Bold: no class, bin, category or attribute; did you mean Bald"),
        ({"weights": {"Bald": -3}}, "weights Bald=-3: expected a number, at least 0"),
        ({"weights": {"Bald": float("nan")}}, "weights Bald=nan: expected a number, at least 0"),
        ({"weights": {"Bald": "3"}}, "weights Bald='3': expected a number, at least 0"),
        ({"weights": {"class": {"Bold": 3}}}, "weights Bold: not there; did you mean Bald"),
        ({"weights": [1, 2]}, "weights of shape .*: expected one per row of the manifest, which has 153"),
        ({"weights": np.zeros(153)}, "weights: every sample has weight 0"),
        ({"weights": -np.ones(153)}, "weights -1.0: of row 0: expected a number, at least 0"),
        ({"weights": "Bald"}, "weights: expected numbers, one per row"),
        ({"weights": {"Bald": 3}, "feed": FeedSettings(balanced=True)}, "weights: not together with balanced"),
        ({"num_samples": 10, "feed": FeedSettings(copies=2)}, "num_samples: not together with copies"),
        ({"num_samples": 0}, "num_samples 0: expected at least 1"),
        ({"num_samples": 1e3}, "num_samples 1000.0: expected a whole number"),
    ],
)
def test_slips_are_refused_by_name(build: Path, choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(FieldError, match=reason):
        loaded(build, **choices)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"copies": 2.5}, "copies 2.5: expected a whole number"),
        ({"copies": True}, "copies True: expected a whole number"),
        ({"window_shards": 1.5}, "window_shards 1.5: expected a whole number"),
        ({"shuffle": "yes"}, "shuffle 'yes': expected True or False"),
        ({"balanced": None}, "balanced None: expected True or False"),
    ],
)
def test_feed_settings_of_another_kind_are_refused(choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(FieldError, match=reason):
        FeedSettings(**choices)


def test_samples_without_a_number_are_refused_and_counted(build: Path, tmp_path: Path) -> None:
    label = "identity"
    table = manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)
    values = pa.array([np.nan if row == 0 else float(row) for row in range(len(table))], pa.float32())
    shutil.copytree(build, tmp_path / "b")
    number = table.schema.get_field_index(label)
    changed = table.set_column(number, pa.field(label, pa.float32()), values)
    manifest.write_table(Store(str(tmp_path / "b")), manifest.MANIFEST_FILE, table=changed)
    with pytest.raises(FieldError, match="targets identity: 1 samples have no value; leave them out with rows="):
        loaded(tmp_path / "b", targets=label)
    kept = loaded(tmp_path / "b", targets=label, rows=np.arange(len(table)) > 0)
    assert kept.targets[label].values.tolist() == kept.rows.tolist()


def test_places_of_a_build_as_people_write_them(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(build.parent))
    monkeypatch.chdir(build)
    for written in ("~/build", Path("~/build"), build / "build.json", f"{build}/", "build.json", "manifest.parquet"):
        assert loaded(written).num_samples == loaded(build).num_samples
    assert location_of(Path("s3://bucket/x")) == "s3://bucket/x" == location_of("s3://bucket/x/build.json")
    assert location_of(Path("https://host/a/b")) == "https://host/a/b"
    for wrong in (3, None, "", b"x"):
        with pytest.raises(FieldError, match=r"build .*: expected a folder or a URL"):
            loaded(wrong)  # type: ignore[arg-type]


def test_boxes_and_landmarks_are_targets(build: Path, tmp_path: Path) -> None:
    changed = altered(
        build,
        tmp_path / "b",
        {
            "box": lambda t: [[row, row + 1, row + 2, row + 3] for row in range(len(t))],
            "landmarks": lambda t: [[row + k / 16 for k in range(10)] for row in range(len(t))],
        },
    )
    loader = loaded(changed, targets=("box", "landmarks"))
    for batch in loader:
        boxes, landmarks = batch.targets["box"], batch.targets["landmarks"]
        assert boxes.dtype == landmarks.dtype == torch.float32
        assert torch.equal(boxes, batch.rows[:, None] + torch.arange(4.0))
        assert torch.equal(landmarks, batch.rows[:, None] + torch.arange(10) / 16)
    holes = altered(changed, tmp_path / "c", {"box": lambda t: [None, *t["box"].to_pylist()[1:]]})
    with pytest.raises(FieldError, match=r"targets box: 1 of .* samples have none of 4 numbers"):
        loaded(holes, targets="box")
    assert loaded(holes, targets="box", rows=np.arange(153) > 0).targets["box"].values[0].tolist() == [1, 2, 3, 4]


def test_keys_and_sources_of_a_batch(build: Path, table: pa.Table) -> None:
    loader = loaded(build)
    batch = next(iter(loader))
    assert loader.keys(batch.rows) == table["key"].take(pa.array(batch.rows.numpy())).to_pylist()
    assert loader.sources(batch.rows) == table["source"].take(pa.array(batch.rows.numpy())).to_pylist()
    assert loader.sources([0]) == [table["source"][0].as_py()]
    assert loader.keys([]) == []
    with pytest.raises(FieldError, match=r"rows 153: .* has rows 0 to 152"):
        loader.keys([153])
    loader.close()


def test_weights_draw_samples_as_often_as_they_say(build: Path, table: pa.Table) -> None:
    number = 20_000
    classes = table["class"].to_pylist()
    loader = loaded(build, weights={"Bald": 3, "Pale_Skin": 0}, num_samples=number, batch_size=1000)
    rows = rows_of(loader)
    assert len(rows) == number == loader.num_samples
    assert len(loader) == 20
    there = Counter(classes[row] for row in loaded(build).rows)
    drawn = Counter(classes[row] for row in rows)
    weighted = {name: there[name] * {"Bald": 3, "Pale_Skin": 0}.get(name, 1) for name in there}
    for name, weight in weighted.items():
        assert drawn[name] / number == pytest.approx(weight / sum(weighted.values()), abs=0.015)
    assert drawn["Pale_Skin"] == 0


def test_weights_of_attributes_bins_and_rows(build: Path, table: pa.Table) -> None:
    rows = loaded(build).rows
    male = np.array(table["Male"].to_pylist())[rows]
    classes = np.array(table["class"].to_pylist())[rows]
    identity = np.array(table["identity"].to_pylist())[rows]
    bins = f"identity:0-{np.median(identity):.0f},{np.median(identity) + 1:.0f}-"
    high = loaded(build, targets=bins).targets[bins]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"weights": {"Male": 2.5}}, np.where(male, 2.5, 1)),
        ({"weights": {"Male": 2, "Bald": 3}}, np.where(male, 2, 1) * np.where(classes == "Bald", 3, 1)),
        (
            {"weights": {"attributes": {"Male": 2}, "class": {"Bald": 3}}},
            np.where(male, 2, 1) * np.where(classes == "Bald", 3, 1),
        ),
        ({"weights": {high.names[1]: 4}, "targets": bins}, np.where(high.values == 1, 4, 1)),
        ({"weights": {bins: {high.names[1]: 4}}}, np.where(high.values == 1, 4, 1)),
        ({"weights": np.arange(153)}, rows),
        ({"weights": np.arange(153).tolist(), "rows": rows[:5]}, rows[:5]),
    ]
    for choices, expected in cases:
        chosen = Choice.of("train", **choices)
        weights = Samples.read(Store(str(build)), manifest.read_build(str(build)), chosen).weights
        assert weights is not None
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("window", [None, 2])
def test_drawn_samples_are_the_same_on_any_ranks_and_resumed(build: Path, window: int | None) -> None:
    common: dict[str, Any] = {
        "weights": {"Bald": 5},
        "num_samples": 333,
        "seed": 3,
        "feed": FeedSettings(window_shards=window),
    }
    alone = [batch.rows.tolist() for batch in loaded(build, **common)]
    assert [len(batch) for batch in alone] == [32] * 10 + [13]
    parts = [[batch.rows.tolist() for batch in loaded(build, **common, rank=rank, world_size=3)] for rank in range(3)]
    assert [[row for part in batches for row in part] for batches in zip(*parts, strict=True)] == alone
    stopped = loaded(build, **common)
    batches = iter(stopped)
    first = [next(batches).rows.tolist() for _ in range(4)]
    resumed = loaded(build, **common)
    resumed.load_state_dict(stopped.state_dict())
    stopped.close()
    assert first + [batch.rows.tolist() for batch in resumed] == alone
    second = rows_of(resumed)
    assert len(second) == 333
    assert sorted(second) != sorted(row for batch in alone for row in batch)  # drawn anew
    with pytest.raises(UsageError, match="state of another loader"):
        loaded(build, **(common | {"weights": {"Bald": 4}})).load_state_dict(stopped.state_dict())
