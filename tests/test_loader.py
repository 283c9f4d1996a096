"""The loader gives the right pixels and labels, in an order that can be repeated, split over ranks and resumed."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from conftest import hear_interrupts, make, use_s3
from faulty import Proxy
from hypothesis import given, settings
from hypothesis import strategies as st
from web import started

from facepack import image, manifest
from facepack.drawn import synthetic
from facepack.errors import FieldError, JobError, UsageError
from facepack.manifest import Status
from facepack.storage import Store
from trainer.augment import (
    CenterCrop,
    ColorJitter,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    Resize,
)
from trainer.feed import FeedSettings
from trainer.loader import Batch, EngineSettings, Loader
from trainer.loading import decoded
from trainer.loading.decoded import ControlGroup, DecodedCache
from trainer.staging import StagingSettings


@pytest.fixture(scope="module")
def build(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loader") / "build"
    make(celeba, out, samples_per_shard=20)
    return out


@pytest.fixture(scope="module")
def raw(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loader") / "raw"
    make(celeba, out, samples_per_shard=20, encoding="raw")
    return out


def table_of(build: Path) -> pa.Table:
    return manifest.read_table(Store(str(build)), manifest.MANIFEST_FILE)


def rows_of(build: Path, split: str) -> list[int]:
    table = table_of(build)
    chosen = pc.and_(pc.equal(table["split"], split), pc.equal(table["status"], Status.PACKED))
    return np.flatnonzero(chosen.to_numpy()).tolist()


def counted(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows[batch.mask]]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.rows, b.rows) for a, b in zip(one, other, strict=True)
    )


RANDOM = (RandomResizedCrop(24, scale=(0.5, 1.0)), ColorJitter(0.3, 0.3, 0.3), RandomHorizontalFlip(), Normalize())


def test_three_lines_are_enough(build: Path) -> None:
    for batch in Loader(build, split="train", batch_size=16):
        assert batch.images.shape == (len(batch.rows), 3, 32, 32)
        assert batch.images.dtype == torch.float32
    assert abs(float(batch.images.mean())) < 1


def test_every_row_once_an_epoch_with_its_own_pixels_and_class(build: Path) -> None:
    loader = Loader(build, split="train", batch_size=16, augment=())
    table, names = table_of(build), manifest.read_build(str(build)).class_names
    for epoch in range(2):
        assert loader.epoch == epoch
        batches = list(loader)
        assert len(batches) == len(loader)
        assert sorted(counted(batches)) == rows_of(build, "train")
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        for pixels, number, row in zip(batch.images, batch.targets["class"], batch.rows, strict=True):
            record = {name: table[name][int(row)].as_py() for name in ("shard", "offset", "size", "class")}
            assert names[int(number)] == record["class"]
            encoded = Store(str(build)).read_range(record["shard"], start=record["offset"], length=record["size"])
            expected = image.decode(encoded)[:, :, ::-1].astype(int)
            assert np.abs(pixels.numpy().astype(int) - expected).mean() < 1


def test_raw_pixels_are_exact_and_normalised_by_the_builds_own_statistics(raw: Path) -> None:
    loader = Loader(raw, split="train", batch_size=500, augment=())
    (batch,) = list(loader)
    table, store = table_of(raw), Store(str(raw))
    for pixels, row in zip(batch.images, batch.rows, strict=True):
        record = {name: table[name][int(row)].as_py() for name in ("shard", "offset", "size")}
        content = store.read_range(record["shard"], start=record["offset"], length=record["size"])
        assert np.array_equal(pixels.numpy(), image.decode_raw(content))
    (whole,) = list(Loader(raw, split="train", batch_size=500, augment=(Normalize(),)))
    assert torch.allclose(whole.images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(whole.images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-3)


@pytest.mark.parametrize("encoding", ["build", "raw"])
def test_kept_images_change_no_bit(encoding: str, request: pytest.FixtureRequest) -> None:
    where = request.getfixturevalue(encoding)
    augment = (Resize((40, 36)), CenterCrop(32), *RANDOM)
    plain = Loader(where, split="train", batch_size=24, augment=augment, cache="none")
    kept = Loader(where, split="train", batch_size=24, augment=augment, cache="ram")
    assert (plain.cache, kept.cache) == ("none", "ram")
    for _ in range(3):
        assert same(list(plain), list(kept))


def test_two_runs_with_one_seed_are_equal_bit_for_bit_and_seeds_differ(build: Path) -> None:
    def epochs(seed: int, **settings: Any) -> list[Batch]:
        loader = Loader(build, split="train", batch_size=16, augment=RANDOM, seed=seed, **settings)
        return [*loader, *loader]

    first = epochs(1)
    assert same(first, epochs(1))
    assert same(first, epochs(1, engine=EngineSettings(num_threads=1, prefetch=3)))
    assert not same(first, epochs(2))
    half = len(first) // 2
    assert not same(first[:half], first[half:])


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_size_of_batches_changes_no_image(build: Path, cache: Any) -> None:
    def images(batch_size: int) -> torch.Tensor:
        augment = (RandomResizedCrop(scale=(0.5, 1.0)), *RANDOM)
        loader = Loader(build, split="train", batch_size=batch_size, augment=augment, cache=cache)
        return torch.cat([batch.images for _ in range(2) for batch in loader])

    # Small ones are made several at once.
    assert torch.equal(images(3), images(500))


def test_batches_that_are_kept_stay_as_they_were(build: Path) -> None:
    batches = list(Loader(build, split="train", batch_size=8, augment=RANDOM))
    copies = [batch.images.clone() for batch in batches]
    list(Loader(build, split="train", batch_size=8, augment=RANDOM, seed=9))
    gc.collect()
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(batches, copies, strict=True))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(0, 12), st.booleans())
@settings(max_examples=12)
def test_resumed_anywhere_on_any_number_of_ranks_the_epoch_is_whole(
    build: Path, batch_size: int, before: int, after: int, stop: int, pad: bool
) -> None:
    shared: dict[str, Any] = {"split": "train", "batch_size": batch_size, "augment": (), "cache": "none"}
    shared |= {"feed": FeedSettings(pad_last=pad), "engine": EngineSettings(num_threads=1)}
    seen, states = [], []
    for rank in range(before):
        loader = Loader(build, rank=rank, world_size=before, **shared)
        for number, batch in enumerate(loader):
            if number == stop:
                break
            seen += counted([batch])
            states.append((number, loader.state_dict()))
        if not stop:
            states.append((-1, Loader(build, **shared).state_dict()))
    state = max(states, key=lambda pair: pair[0])[1]
    for rank in range(after):
        loader = Loader(build, rank=rank, world_size=after, **shared)
        loader.load_state_dict(state)
        if state["epoch"] == 0:  # else the last batch was taken
            seen += counted(list(loader))
            assert loader.epoch == 1
    assert sorted(seen) == rows_of(build, "train")


def test_resumed_run_goes_on_bit_for_bit(build: Path) -> None:
    whole = [*Loader(build, split="train", batch_size=16, augment=RANDOM)]
    first = Loader(build, split="train", batch_size=16, augment=RANDOM)
    begun = [batch for _, batch in zip(range(3), first, strict=False)]
    state = first.state_dict()
    again = Loader(build, split="train", batch_size=16, augment=RANDOM)
    again.load_state_dict(state)
    assert same([*begun, *again], whole)
    whole_again = Loader(build, split="train", batch_size=16, augment=RANDOM)
    whole_again.set_epoch(1)
    assert same(list(first), list(whole_again))  # and the loader that was left begins the next one


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("batch_size", [4, 32])
def test_iterator_ends_the_one_before_and_takes_no_image_from_it(build: Path, cache: Any, batch_size: int) -> None:
    def loader() -> Loader:
        return Loader(build, split="train", batch_size=batch_size, augment=RANDOM, cache=cache, seed=3)

    reference, twice = loader(), loader()
    first, second = list(reference), list(reference)
    before = iter(twice)
    assert same([next(before)], first[:1])
    seen = []
    for batch in twice:
        seen.append(batch)
        if len(seen) == 3:
            with pytest.raises(UsageError, match="this iterator of the loader is over"):
                next(before)
            del before
    assert same(seen, second)
    assert twice.epoch == 2


def test_closed_loader_holds_no_image_and_opens_again(build: Path) -> None:
    loader = Loader(build, split="train", batch_size=16, augment=RANDOM, cache="ram")
    first = list(loader)
    assert loader.cached_bytes == loader.num_samples * 32 * 32 * 3
    loader.close()
    assert loader.cached_bytes == 0
    loader.reset()
    assert same(list(loader), first)


@pytest.mark.parametrize("augment", [RANDOM, (Normalize(),), ()])
def test_images_and_parameters_of_two_sources_belong_together(
    build: Path, monkeypatch: pytest.MonkeyPatch, augment: Any
) -> None:
    """Where images are kept on a GPU they come by a source of their own."""

    def batches() -> list[Batch]:
        loader = Loader(build, split="train", batch_size=16, augment=augment, cache="ram")
        return [*loader, next(iter(loader)), *loader]

    expected = batches()
    monkeypatch.setattr(DecodedCache, "is_on_device", True)
    assert same(batches(), expected)


def test_cache_is_chosen_within_the_limit_of_a_container(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = tmp_path / "memory.max"
    group = ControlGroup(tmp_path, most.name, "memory.current", "inactive_file")
    monkeypatch.setattr(decoded, "CONTROL_GROUPS", [group])
    (tmp_path / group.usage).write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    free = {}
    for limit in ("max", "1000000"):
        most.write_text(f"{limit}\n")
        free[limit] = decoded.free_memory()
    assert free["1000000"] == 600_000 < free["max"]
    assert Loader(build, split="train", batch_size=16).cache == "none"
    most.write_text("max\n")
    assert Loader(build, split="train", batch_size=16).cache == "ram"


def test_state_of_another_loader_is_refused(build: Path, raw: Path) -> None:
    state = Loader(build, split="train", batch_size=16).state_dict()
    Loader(raw, split="train", batch_size=8).load_state_dict(state)  # the same samples in another encoding
    others: list[dict[str, Any]] = [{"seed": 1}, {"split": "test"}, {"classes": ["Bald"]}]
    for other in others:
        with pytest.raises(UsageError, match="state of another loader"):
            Loader(build, **{"split": "train", "batch_size": 16, **other}).load_state_dict(state)


def test_ranks_together_give_the_global_batches_of_one(build: Path) -> None:
    alone = list(Loader(build, split="train", batch_size=20, augment=RANDOM))
    parts = [
        list(Loader(build, split="train", batch_size=20, augment=RANDOM, rank=rank, world_size=3)) for rank in range(3)
    ]
    for number, batch in enumerate(alone):
        assert torch.equal(torch.cat([part[number].rows[part[number].mask] for part in parts]), batch.rows)
        assert torch.equal(torch.cat([part[number].images[part[number].mask] for part in parts]), batch.images)


def test_targets_come_from_the_manifest(build: Path) -> None:
    names = ("class", "attributes", "Smiling", "identity", "identity:0-9,10-")
    loader = Loader(build, split="train", batch_size=16, targets=names, augment=())
    table = table_of(build)
    attributes = loader.targets["attributes"].names
    assert len(attributes) == 40
    for batch in loader:
        rows = batch.rows.numpy()
        assert batch.targets["attributes"].shape == (len(rows), 40)
        assert batch.targets["attributes"].dtype == torch.float32
        column = batch.targets["attributes"][:, attributes.index("Bald")].tolist()
        assert column == table["Bald"].take(pa.array(rows)).to_pylist()
        assert batch.targets["Smiling"].tolist() == table["Smiling"].take(pa.array(rows)).to_pylist()
        people = table["identity"].take(pa.array(rows)).to_pylist()
        assert batch.targets["identity"].tolist() == people
        assert batch.targets["identity:0-9,10-"].tolist() == [int(person >= 10) for person in people]


def test_ages_and_categories_as_targets(tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "source", num_images=60)
    make(tmp_path / "source", tmp_path / "build", dataset="utkface", classes="")
    loader = Loader(tmp_path / "build", split="train", batch_size=100, targets=("age", "gender", "age:0-17,18-"))
    (batch,) = list(loader)
    rows = pa.array(batch.rows.numpy())
    table = table_of(tmp_path / "build")
    ages = table["age"].take(rows).to_pylist()
    assert batch.targets["age"].dtype == torch.float32
    assert batch.targets["age"].tolist() == ages
    genders = [loader.targets["gender"].names[number] for number in batch.targets["gender"].tolist()]
    assert genders == table["gender"].take(rows).to_pylist()
    assert batch.targets["age:0-17,18-"].tolist() == [int(age >= 18) for age in ages]


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"targets": ("shoe size",)}, "targets shoe size: the build has no such column; known are attributes, class"),
        ({"targets": ("Smilin",)}, "did you mean Smiling"),
        ({"targets": ("identity:young",)}, "targets identity:young: expected ascending bins"),
        (
            {"targets": ("identity:1-10,5-20",)},
            "targets identity:1-10,5-20: expected ascending bins that do not overlap",
        ),
        ({"targets": ("identity:0-3",)}, "samples are in no bin"),
        ({"targets": ("class", "class")}, "targets class: named twice"),
        ({"classes": ["Bold"]}, "classes Bold: no class of the build; did you mean Bald"),
        ({"classes": ["Bald", "Bald"]}, "classes Bald: named twice"),
        ({"split": "training"}, "split training: no packed sample in .*; it has train, valid, test"),
        ({"rows": [10**9]}, "rows 1000000000: the first of 1 that are not among the 153 rows"),
        ({"rows": [0.5]}, "rows: expected row numbers of the manifest"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"batch_size": 2.5}, "batch_size 2.5: expected a whole number"),
        ({"rank": 2, "world_size": 2}, "rank 2: expected 0 <= rank < world_size, which is 2"),
        ({"world_size": 0}, "world_size 0: expected at least 1"),
        ({"cache": "disk"}, "cache disk: expected none, ram, device, auto"),
        ({"device": "gpu"}, "device gpu: expected cpu, cuda or cuda:0"),
        ({"device": "meta"}, "device meta: expected cpu, cuda or cuda:0"),
        ({"augment": (torch.nn.Identity(),)}, "augment .*: expected augmentations of trainer.augment"),
        ({"augment": (Normalize(std=(0, 1, 1)),)}, "expected more than 0"),
        ({"augment": (CenterCrop(64),)}, "an image of 32x32 pixels is smaller"),
    ],
)
def test_wrong_choices_are_refused_at_once(build: Path, choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Loader(build, **{"split": "train", "batch_size": 16, **choices})


def test_errors_of_arguments_name_their_field(build: Path) -> None:
    arguments: list[dict[str, Any]] = [{"batch_size": 0}, {"rank": 7}, {"cache": "disk"}, {"targets": ("no",)}]
    for argument in arguments:
        with pytest.raises(FieldError) as caught:
            Loader(build, **{"split": "train", "batch_size": 16, **argument})
        assert caught.value.field in argument


def test_engine_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FieldError, match="num_threads -1: expected at least 1, or 0"):
        EngineSettings(num_threads=-1)
    with pytest.raises(FieldError, match="prefetch 0: expected at least 1"):
        EngineSettings(prefetch=0)


def test_build_and_loader_refuse_the_same_bins(build: Path, tmp_path: Path) -> None:
    synthetic.draw("utkface", tmp_path / "source", num_images=30)
    for bins in ("1-10,5-20", "5-1", "1-4,,5-", "young"):
        with pytest.raises(UsageError, match="expected ascending bins that do not overlap"):
            make(tmp_path / "source", tmp_path / "build", dataset="utkface", classes="", age_bins=bins)
        with pytest.raises(UsageError, match="expected ascending bins that do not overlap"):
            Loader(build, split="train", batch_size=16, targets=(f"identity:{bins}",))


def test_classes_and_rows_choose_samples(build: Path) -> None:
    two = Loader(build, split="train", batch_size=16, classes=["Pale_Skin", "Bald"])
    table = table_of(build)
    for batch in two:
        names = [table["class"][int(row)].as_py() for row in batch.rows]
        assert batch.targets["class"].tolist() == [["Pale_Skin", "Bald"].index(name) for name in names]
    some = rows_of(build, "train")[::3]
    assert sorted(counted(list(Loader(build, split="train", batch_size=16, rows=some)))) == some


def test_balanced_gives_every_class_equally_often(build: Path) -> None:
    loader = Loader(build, split="train", batch_size=16, feed=FeedSettings(balanced=True))
    for _ in range(2):
        classes = torch.cat([batch.targets["class"] for batch in loader])
        counts = torch.bincount(classes)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == loader.num_samples


def test_copies_are_one_plain_and_others_changed_alike_in_every_epoch(build: Path) -> None:
    steps = (RandomRotation((5, 30)), RandomResizedCrop(), ColorJitter((1.2, 1.5), 0.5), RandomHorizontalFlip(0.7))
    loader = Loader(build, split="train", batch_size=16, augment=steps, feed=FeedSettings(copies=3))
    plain = {
        row: image for batch in Loader(build, split="train", batch_size=16, augment=()) for row, image in pairs(batch)
    }
    assert loader.num_samples == 3 * len(plain)
    epochs = []
    for _ in range(2):
        found: dict[int, list[bytes]] = {}
        order = []
        for batch in loader:
            order += batch.rows.tolist()
            for row, pixels in pairs(batch):
                found.setdefault(row, []).append(pixels)
        epochs.append((order, {row: sorted(images) for row, images in found.items()}))
    (first_order, first), (second_order, second) = epochs
    assert first_order != second_order
    assert first == second
    assert set(first) == set(plain)
    for row, images in first.items():
        assert len(set(images)) == 3
        assert images.count(plain[row]) == 1


def pairs(batch: Batch) -> Iterator[tuple[int, bytes]]:
    """Rows, and their pixels."""
    return zip(batch.rows.tolist(), (pixels.numpy().tobytes() for pixels in batch.images), strict=True)


def test_copies_go_on_where_they_stopped(build: Path) -> None:
    def made() -> Loader:
        feed = FeedSettings(copies=2)
        return Loader(build, split="train", batch_size=16, augment=(ColorJitter(0.5),), feed=feed)

    whole = [list(pairs(batch)) for batch in made()]
    first, second = made(), made()
    for number, _ in enumerate(first):
        if number == 4:
            break
    second.load_state_dict(first.state_dict())
    assert [list(pairs(batch)) for batch in second] == whole[5:]


def test_images_of_many_sizes_need_a_resize(tmp_path: Path) -> None:
    synthetic.draw("simpsons", tmp_path / "source", num_images=60)
    make(tmp_path / "source", tmp_path / "build", dataset="simpsons", classes="commonest5", size="keep")
    with pytest.raises(UsageError, match=r"add Resize\(\(height, width\)\)"):
        Loader(tmp_path / "build", split="train", batch_size=8)
    loader = Loader(tmp_path / "build", split="train", batch_size=8, augment=(Resize((24, 20)), Normalize()))
    assert loader.cache == "ram"
    for _ in range(2):
        assert {tuple(batch.images.shape[1:]) for batch in loader} == {(3, 24, 20)}


def test_damaged_sample_stops_with_shard_and_cause(build: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(build, copy)
    table = table_of(copy)
    row = rows_of(copy, "train")[10]
    path = copy / table["shard"][row].as_py()
    content = bytearray(path.read_bytes())
    content[table["offset"][row].as_py() + 300] ^= 255
    path.write_bytes(content)
    loader = Loader(copy, split="train", batch_size=16)
    with pytest.raises(JobError, match=rf"{path.name}: sample {table['key'][row].as_py()} is damaged"):
        list(loader)
    path.unlink()
    with pytest.raises(JobError, match=rf"{path.name}: No such file"):
        list(Loader(copy, split="train", batch_size=16))
    with pytest.raises(JobError, match=r"no build\.json"):
        Loader(tmp_path / "nothing", split="train", batch_size=16)


def test_sample_that_cannot_be_decoded_is_named_by_its_shard(build: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(build, copy)
    table = table_of(copy)
    row = rows_of(copy, "test")[0]
    path = copy / table["shard"][row].as_py()
    content = bytearray(path.read_bytes())
    content[table["offset"][row].as_py() : table["offset"][row].as_py() + 20] = bytes(20)
    path.write_bytes(content)
    loader = Loader(copy, split="test", batch_size=16, staging=StagingSettings(verify=False))
    with pytest.raises(JobError, match=r"test-00000\.tar: a sample cannot be decoded"):
        list(loader)


def test_memory_stays_flat_over_twenty_epochs(build: Path) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    loader = Loader(build, split="train", batch_size=16, augment=RANDOM)
    for _ in range(5):
        list(loader)
    gc.collect()
    before = resident_bytes()
    for _ in range(20):
        for _ in loader:
            pass
    gc.collect()
    assert resident_bytes() - before < 30e6


def test_interrupted_program_ends_at_once_and_starts_again(build: Path, tmp_path: Path) -> None:
    program = f"""
from trainer.loader import Loader
loader = Loader({str(build)!r}, split="train", batch_size=4)
while True:
    for batch in loader:
        print(len(batch.rows), flush=True)
"""
    for stop in (signal.SIGINT, signal.SIGKILL, signal.SIGINT):
        command = [sys.executable, "-W", "ignore", "-c", program]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, preexec_fn=hear_interrupts, **pipes) as process:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"4"
            process.send_signal(stop)
            begun = time.monotonic()
            process.communicate(timeout=20)
        assert time.monotonic() - begun < 10
        assert process.returncode != 0


def test_program_that_looks_at_one_batch_ends_in_silence(build: Path) -> None:
    program = f"""
from trainer.loader import Loader
batches = iter(Loader({str(build)!r}, split="train", batch_size=4))
print(len(next(batches).rows))
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "4\n", "")


@pytest.mark.gpu
def test_gpu_gives_the_batches_of_the_cpu(build: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    for augment in ((), RANDOM):
        for cache in ("none", "ram", "device"):
            choices: dict[str, Any] = {"split": "train", "batch_size": 32, "augment": augment}
            ours = [*Loader(build, device="cuda", cache=cache, **choices)]
            theirs = [*Loader(build, device="cpu", cache="none", **choices)]
            for one, other in zip(ours, theirs, strict=True):
                assert torch.equal(one.rows.cpu(), other.rows)
                assert torch.equal(one.targets["class"].cpu(), other.targets["class"])
                scale = 1.0 if not augment else 255 * 0.25  # normalised: a level is about a 64th
                assert (one.images.cpu().float() - other.images.float()).abs().mean() * scale < 2


# From an object store


@pytest.fixture
def proxy(s3_server: str, build: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The build as s3://loader/build, behind a proxy that counts and may fail."""
    proxy = Proxy(s3_server)
    use_s3(monkeypatch, proxy.url)
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="loader")
    for path in build.iterdir():
        Store("s3://loader/build").write(path.name, path.read_bytes())
    proxy.requests.clear()
    yield proxy
    proxy.stop()


def test_remote_build_is_one_request_a_shard_and_gives_the_same_samples(
    build: Path, proxy: Proxy, tmp_path: Path
) -> None:
    staging = StagingSettings(cache_folder=str(tmp_path))
    with Loader("s3://loader/build", split="train", batch_size=16, augment=(), staging=staging, cache="none") as loader:
        num_shards = sum(record.name.startswith("train") for record in loader.build.shards)
        for _ in range(2):
            assert sorted(counted(list(loader))) == rows_of(build, "train")
    assert proxy.count("GET", ".tar") == num_shards
    assert sum(proxy.requests.values()) == num_shards + 2  # build.json and the manifest
    windowed = FeedSettings(window_shards=16)
    local = Loader(build, split="train", batch_size=16, augment=RANDOM, feed=windowed)
    with Loader("s3://loader/build", split="train", batch_size=16, augment=RANDOM, staging=staging) as again:
        assert same(list(local), list(again))


def test_epoch_goes_on_from_a_copy_elsewhere(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    """Local shards are shuffled all together and remote ones in windows: a state says in which."""
    staging = StagingSettings(cache_folder=str(tmp_path))

    def loader(where: Path | str) -> Loader:
        return Loader(where, split="train", batch_size=16, augment=RANDOM, staging=staging, cache="none")

    for first, second in ((build, "s3://loader/build"), ("s3://loader/build", build)):
        with loader(first) as begun, loader(second) as copy, loader(first) as whole:
            expected = list(whole)
            for _ in zip(range(2), begun, strict=False):
                state = begun.state_dict()
            copy.load_state_dict(state)
            assert same(list(copy), expected[2:])


def test_splits_share_the_cache_and_nothing_is_fetched_twice(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    staging = StagingSettings(cache_folder=str(tmp_path))
    for _ in range(2):
        for split in ("train", "valid"):
            with Loader("s3://loader/build", split=split, batch_size=16, staging=staging, cache="none") as loader:
                list(loader)
    shards = [one.name for one in manifest.read_build(str(build)).shards if not one.name.startswith("test")]
    assert proxy.count("GET", ".tar") == len(shards)


def test_training_goes_on_through_faults_that_pass(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    faults = ["reset", "503", "short", "wrong"]
    proxy.fault = lambda path, before: faults[before] if path.endswith(".tar") and before < 2 else ""
    staging = StagingSettings(cache_folder=str(tmp_path))
    with Loader("s3://loader/build", split="train", batch_size=16, augment=(), staging=staging) as loader:
        assert sorted(counted(list(loader))) == rows_of(build, "train")


def test_shard_that_is_gone_or_stays_damaged_stops_the_epoch(proxy: Proxy, tmp_path: Path) -> None:
    staging = StagingSettings(cache_folder=str(tmp_path), attempts=2)
    for fault, cause in (("gone", "the shard is gone"), ("wrong", "sha256 is")):
        proxy.fault = lambda path, _, fault=fault: fault if path.endswith("train-00001.tar") else ""  # type: ignore[misc]
        with (
            Loader("s3://loader/build", split="train", batch_size=16, staging=staging) as loader,
            pytest.raises(JobError, match=rf"s3://loader/build/train-00001\.tar: .*{cause}"),
        ):
            list(loader)


def test_fetched_shard_that_somebody_changed_is_named_with_its_remedy(proxy: Proxy, tmp_path: Path) -> None:
    staging = StagingSettings(cache_folder=str(tmp_path))
    with Loader("s3://loader/build", split="train", batch_size=16, augment=(), staging=staging, cache="none") as loader:
        list(loader)
    for path in tmp_path.rglob("*.tar"):
        content = bytearray(path.read_bytes())
        content[600] ^= 255  # within the first image
        path.write_bytes(content)
    with (
        Loader("s3://loader/build", split="train", batch_size=16, augment=(), staging=staging) as loader,
        pytest.raises(JobError, match=rf"train-0000\d\.tar: sample .* is damaged.*remove {tmp_path}/.*\.tar"),
    ):
        list(loader)


def test_first_batch_waits_for_one_shard_alone(proxy: Proxy, tmp_path: Path) -> None:
    staging = StagingSettings(cache_folder=str(tmp_path), ahead=1)
    feed = FeedSettings(window_shards=1)
    with Loader("s3://loader/build", split="train", batch_size=16, augment=(), staging=staging, feed=feed) as loader:
        engine_off = iter(loader)
        next(engine_off)
        assert proxy.count("GET", ".tar") <= 5  # prefetched batches, and one shard ahead


def test_cache_of_a_tenth_of_the_build_works(build: Path, proxy: Proxy, tmp_path: Path) -> None:
    shards = manifest.read_build(str(build)).shards
    limit = max(sum(shard.num_bytes for shard in shards) // 10, max(shard.num_bytes for shard in shards))
    staging = StagingSettings(cache_folder=str(tmp_path), cache_bytes=limit)
    with Loader("s3://loader/build", split="train", batch_size=16, augment=(), staging=staging, cache="none") as loader:
        for _ in range(2):
            assert sorted(counted(list(loader))) == rows_of(build, "train")
            assert sum(path.stat().st_size for path in tmp_path.rglob("*.tar")) <= limit


def test_build_behind_a_plain_web_server(build: Path, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = started(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(build.parent))))
    try:
        staging = StagingSettings(cache_folder=str(tmp_path))
        url = f"http://127.0.0.1:{server.server_address[1]}/{build.name}/"
        with Loader(url, split="train", batch_size=16, augment=(), staging=staging) as loader:
            assert sorted(counted(list(loader))) == rows_of(build, "train")
    finally:
        server.shutdown()
        server.server_close()
