"""Planning: the key, split and shard of every row, as pure functions of hashes, before any image is read."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facepack.choices import Split
from facepack.configuration import Configuration
from facepack.description import SPLITS, Description
from facepack.errors import FieldError, JobError
from facepack.hashing import Hashes, key_of, mixed
from facepack.label import Labelled
from facepack.manifest import FACE, KEY_LENGTH, Status, people_in_several_splits
from facepack.names import ROWS_AT_ONCE
from facepack.near_duplicates import Numbers, Pairs, groups_of
from facepack.near_sources import near_groups
from facepack.parquet_images import digests_of
from facepack.source import Source

NO_SPLIT = "in no split, while others have one"
"""Why a row is left out."""

_NUM_NAMED = 3

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its name without suffix, and its rows in the plan's table."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """What will be built.

    `table` has the columns key, source, split, status, duplicate_of, class, where every face is to be a sample a null
    face, then the labels. Its first rows are those
    of the shards, in stored order, with a null status: packing decides it. After them come the rows that will not be
    packed, with their status (missing, duplicate). The index's column official_split ends here: it is in `split` where
    that is the rule.
    """

    table: pa.Table
    shards: tuple[ShardPlan, ...]
    class_names: tuple[str, ...]
    split: str
    num_leaking: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitRows:
    """The rows that a split has a place for; how many are left out, by reason; a line that names the first of them."""

    table: pa.Table
    left_out: dict[str, int]
    warnings: tuple[str, ...]


def rows_with_split(description: Description, table: pa.Table, *, configuration: Configuration) -> SplitRows:
    """Leave out the rows without a split where others have one that is to stay, so that those keep theirs.

    `table` is that of the index. All rows stay where another split is asked for, or where no row has one.
    """
    official, rule = table["official_split"], configuration.split_rule
    without = official.null_count
    if without == len(table) and rule is None:
        return SplitRows(table, {}, _identity_warnings(description, table))
    if without in (0, len(table)) or (rule is not None and rule.kind != "official"):
        return SplitRows(table, {}, ())
    has_split = pc.is_valid(official)
    first = table["source"].filter(pc.invert(has_split))[:_NUM_NAMED].to_pylist()
    more = f" and {without - len(first):,} more" if without > len(first) else ""
    warning = (
        f"{without:,} of {len(table):,} rows are in no split of {description.name} and left out: "
        f"{', '.join(first)}{more}; --split 80/10/10 would split all rows anew"
    )
    return SplitRows(table.filter(has_split), {NO_SPLIT: without}, (warning,))


def _identity_warnings(description: Description, table: pa.Table) -> tuple[str, ...]:
    """A line where some rows have no identity, so that the default split cannot go by people."""
    names = description.labels_of("identity")
    without = table[names[0]].null_count if names else 0
    if without in (0, len(table)):
        return ()
    first = table["source"].filter(pc.is_null(table[names[0]]))[0]
    return (f"{without:,} of {len(table):,} rows have no identity, such as {first}: the split is not by identity",)


def make_plan(description: Description, labelled: Labelled, *, source: Source, configuration: Configuration) -> Plan:
    """Give every chosen row key, split and shard.

    Raises `FieldError` for a split the dataset cannot have, `JobError` where two keys collide.
    """
    table = labelled.table
    keys = _keys(description.name, table["source"])
    rows = _limited(labelled, keys, source=source, configuration=configuration)
    notes = list(labelled.notes)
    if rows is not None:
        notes.append(f"limits keep {len(rows):,} of {len(table):,} rows")
        notes += _cuts(table, rows, labelled.class_names)
        table, keys = table.take(pa.array(rows)), keys[rows]
    rule = configuration.split_rule or _default_split(description, table)
    shuffled = _shuffled(keys, configuration.seed, "split")
    splits = _splits(description, table, rule=rule, order=shuffled, seed=configuration.seed)
    before = _before_packing(description, table["source"], source)
    contradictions = _contradictions(table, before.duplicate_of)
    if configuration.near_duplicates != "keep":
        groups = near_groups(table["source"], source)
        if configuration.near_duplicates == "drop":
            before = before.without_near(groups)
        else:
            splits = _near_together(splits, groups, persons=_persons(description, table, rule))
        number = int((groups != np.arange(len(groups))).sum())
        notes.append(
            f"{number:,} of {len(table):,} photos are near-duplicates of others: {configuration.near_duplicates}"
        )
    order = _stored(splits, before.is_packed, _shuffled(keys, configuration.seed, "order"))
    columns = {
        "key": _hexadecimal(keys),
        "source": table["source"],
        "split": _texts(splits, SPLITS),
        "status": before.status,
        "duplicate_of": table["source"].take(before.duplicate_of),
        "class": table["class"],
    }
    if configuration.on_several == "all":
        columns[FACE] = pa.nulls(len(table), pa.int32())
    columns |= {name: table[name] for name in table.column_names if name not in ("source", "official_split", "class")}
    del keys, shuffled
    planned = pa.table({name: _in_order(columns.pop(name), order) for name in list(columns)})
    shards = _shards(splits[order][: int(before.is_packed.sum())], configuration.samples_per_shard)
    leaking = _num_leaking(description, table, splits)
    return Plan(planned, tuple(shards), labelled.class_names, f"{rule}", leaking, tuple(notes), contradictions)


def _stored(splits: npt.NDArray[np.int8], is_packed: Bools, order: Hashes) -> npt.NDArray[np.int64]:
    """The rows in stored order: by split those that are packed, then all others, each at random."""
    numbers = np.arange(len(splits))
    groups = [numbers[is_packed & (splits == code)] for code in range(len(SPLITS))]
    others = numbers[~is_packed]
    groups += [others[splits[others] == code] for code in range(len(SPLITS))]
    return np.concatenate([rows[np.argsort(order[rows])] for rows in groups])


def _in_order(column: pa.Array | pa.ChunkedArray, order: npt.NDArray[np.int64]) -> pa.Array | pa.ChunkedArray:
    """A column in another order, in one piece."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.take(pa.array(order))


def _texts(codes: npt.NDArray[np.int8], names: Sequence[str]) -> pa.Array:
    """The name of each code, null for those below 0."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _keys(dataset: str, source: pa.ChunkedArray) -> Hashes:
    """First 64 bits of sha256("<dataset>/<source path>") per row; a collision is refused."""
    parts = [_keys_of(dataset, source.slice(start, ROWS_AT_ONCE)) for start in range(0, len(source), ROWS_AT_ONCE)]
    keys = np.concatenate(parts)
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        raise JobError(f"{dataset}: two images have the same key; rename one of them")
    return keys


def _keys_of(dataset: str, source: pa.ChunkedArray) -> Hashes:
    named = pc.binary_join_element_wise(f"{dataset}/", source, "").combine_chunks()
    _, stops, content = named.buffers()
    assert named.offset == 0
    texts, sha256 = memoryview(content), hashlib.sha256
    places = np.frombuffer(stops, np.int32, len(named) + 1).tolist()
    digests = b"".join([sha256(texts[start:stop]).digest() for start, stop in pairwise(places)])
    keys: Hashes = np.frombuffer(digests, ">u8")[:: hashlib.sha256().digest_size // 8].astype(np.uint64)
    return keys


def _hexadecimal(keys: Hashes) -> pa.Array:
    """Keys as texts of `KEY_LENGTH` digits."""
    ends = np.arange(len(keys) + 1, dtype=np.int32) * KEY_LENGTH
    texts = keys.astype(">u8").tobytes().hex().encode()
    return pa.Array.from_buffers(pa.string(), len(keys), [None, pa.py_buffer(ends), pa.py_buffer(texts)])


def _shuffled(keys: Hashes, seed: int, purpose: str) -> Hashes:
    """A pseudo-random number per key, seed and purpose."""
    return mixed(keys ^ np.uint64(key_of(purpose, seed)))


def stored_order(keys: Sequence[str], *, seed: int) -> list[int]:
    """The number per key by which the samples of a shard are sorted, and so shuffled; faces by that of their photo."""
    numbers = np.array([int(key[:KEY_LENGTH], 16) for key in keys], np.uint64)
    order: list[int] = _shuffled(numbers, seed, "order").tolist()
    return order


def _limited(
    labelled: Labelled, keys: Hashes, *, source: Source, configuration: Configuration
) -> npt.NDArray[np.int64] | None:
    """The rows that --limit-per-class and --limit keep, those that come first in a shuffled order; None for all.

    Files that are not there come after all others.
    """
    if configuration.limit is None and configuration.limit_per_class is None:
        return None
    is_missing = ~source.has(labelled.table["source"])
    order = _shuffled(keys, configuration.seed, "limit") >> np.uint64(1)
    rows = np.argsort(order | (is_missing.astype(np.uint64) << np.uint64(63)), kind="stable")
    if configuration.limit_per_class is not None:
        classes = labelled.table["class"].combine_chunks().fill_null("").dictionary_encode().indices.to_numpy()[rows]
        firsts = [np.flatnonzero(classes == code)[: configuration.limit_per_class] for code in np.unique(classes)]
        rows = rows[np.sort(np.concatenate(firsts))]
    rows = np.sort(rows[: configuration.limit])
    return rows if len(rows) < len(keys) else None


def _cuts(table: pa.Table, rows: npt.NDArray[np.int64], class_names: tuple[str, ...]) -> list[str]:
    """A line per class of which the limits leave rows out."""
    if not class_names:
        return []
    before, after = (
        {row["values"]: row["counts"] for row in column.value_counts().to_pylist()}
        for column in (table["class"], table["class"].take(pa.array(rows)))
    )
    return [
        f"{name}: {after.get(name, 0):,} of {before[name]:,}"
        for name in class_names
        if after.get(name, 0) < before[name]
    ]


# Splits


def _splits(
    description: Description, table: pa.Table, *, rule: Split, order: Hashes, seed: int
) -> npt.NDArray[np.int8]:
    """Per row the number of its split (0 train, 1 valid, 2 test); `order` is a pseudo-random number per row."""
    if rule.kind == "official":
        return _official(description, table, order)
    if rule.kind == "identity":
        return _by_identity(description, table, rule=rule, seed=seed)
    classes = table["class"].combine_chunks().fill_null("").dictionary_encode().indices.to_numpy()
    splits = np.zeros(len(table), np.int8)
    for code in np.unique(classes):
        rows = np.flatnonzero(classes == code)
        ordered = rows if rule.kind == "index" else rows[np.argsort(order[rows], kind="stable")]
        splits[ordered] = _in_shares(len(rows), rule.shares)
    return splits


def _default_split(description: Description, table: pa.Table) -> Split:
    """The official split where rows have one, else by identity where every row has one, else by fractions."""
    if table["official_split"].null_count < len(table):
        return Split("official")
    identities = description.labels_of("identity")
    return Split("identity" if identities and table[identities[0]].null_count == 0 else "fractions")


def _in_shares(number: int, shares: tuple[float, float, float]) -> npt.NDArray[np.int8]:
    """Split numbers of rows in order: valid and test rounded to the nearest, train the rest."""
    valid, test = (int(number * share + 0.5) for share in shares[1:])
    test = min(test, number)
    valid = min(valid, number - test)
    return np.repeat(np.arange(3, dtype=np.int8), (number - valid - test, valid, test))


def _official(description: Description, table: pa.Table, order: Hashes) -> npt.NDArray[np.int8]:
    """The published split; where it has no valid rows, a share of train that the description states."""
    official = table["official_split"]
    if official.null_count == len(table):
        raise FieldError("split", "official", f"{description.name} has none here; give fractions such as 80/10/10")
    assert official.null_count == 0  # rows_with_split has left the others out
    splits: npt.NDArray[np.int8] = pc.index_in(official, value_set=pa.array(SPLITS)).to_numpy().astype(np.int8)
    if description.split is not None and description.split.valid_percent and not (splits == 1).any():
        rows = np.flatnonzero(splits == 0)
        number = int(len(rows) * description.split.valid_percent / 100 + 0.5)
        splits[rows[np.argsort(order[rows], kind="stable")][:number]] = 1
    return splits


def _by_identity(description: Description, table: pa.Table, *, rule: Split, seed: int) -> npt.NDArray[np.int8]:
    """All rows of a person in one split: persons in shuffled order fill train, then valid, then test."""
    names = description.labels_of("identity")
    if not names or table[names[0]].null_count == len(table):
        raise FieldError("split", rule, f"{description.name} names no identities here")
    if missing := table[names[0]].null_count:
        raise JobError(f"{description.name}: split {rule}, but {missing:,} rows have no identity")
    persons, inverse, counts = np.unique(table[names[0]].to_numpy(), return_inverse=True, return_counts=True)
    shuffled = np.argsort(_shuffled(persons.astype(np.uint64), seed, "identity"), kind="stable")
    ends = np.cumsum(counts[shuffled])
    middles = (ends - counts[shuffled] / 2) / len(table)
    splits = np.empty(len(persons), np.int8)
    splits[shuffled] = np.searchsorted(np.cumsum(rule.shares[:2]), middles, side="right")
    of_rows: npt.NDArray[np.int8] = splits[inverse]
    return of_rows


def _persons(description: Description, table: pa.Table, rule: Split) -> Numbers | None:
    """Who is on each row, as the number of the first row of that person, where the split keeps people apart."""
    if rule.kind == "official":
        advice = "the official split says where each photo belongs; give fractions such as 80/10/10, or drop"
        raise FieldError("near_duplicates", "same-split", advice)
    if rule.kind != "identity":
        return None
    _, firsts, inverse = np.unique(
        table[description.labels_of("identity")[0]].to_numpy(), return_index=True, return_inverse=True
    )
    persons: Numbers = firsts[inverse]
    return persons


def _near_together(splits: npt.NDArray[np.int8], groups: Numbers, *, persons: Numbers | None) -> npt.NDArray[np.int8]:
    """The splits with each group of near-duplicates, and all of the people in it, in that of its first row."""
    joined = [groups] if persons is None else [groups, persons]
    first, second = np.concatenate(joined), np.tile(np.arange(len(splits)), len(joined))
    pairs = Pairs(first, second, np.zeros(len(first), np.uint8), np.zeros(len(first), np.bool_))
    of_rows: npt.NDArray[np.int8] = splits[groups_of(pairs, number=len(splits))]
    return of_rows


def _num_leaking(description: Description, table: pa.Table, splits: npt.NDArray[np.int8]) -> int:
    """Number of persons that are in more than one split."""
    names = description.labels_of("identity")
    if not names:
        return 0
    people = pa.table({"person": table[names[0]], "split": splits})
    return len(people_in_several_splits(people, "person")["person"].unique())


# What is known before an image is decoded


class _Before(NamedTuple):
    """Per row what becomes of it without packing: its status, or null; the row whose file it repeats, or null."""

    status: pa.Array
    duplicate_of: pa.Array

    @property
    def is_packed(self) -> Bools:
        """Whether packing decides."""
        return np.asarray(self.status.is_null())

    def without_near(self, groups: Numbers) -> "_Before":
        """The same, and `near_duplicate` for what looks like an earlier photo, by the first of its group per row."""
        is_near = self.is_packed & (groups != np.arange(len(groups)))
        status = pc.if_else(pa.array(is_near), str(Status.NEAR_DUPLICATE), self.status)
        return _Before(status, pc.if_else(pa.array(is_near), pa.array(groups), self.duplicate_of))


def _before_packing(description: Description, paths: pa.ChunkedArray, source: Source) -> _Before:
    """`missing` where the source has no such file, `duplicate` for repeated files."""
    is_there = source.has(paths)
    codes = np.where(is_there, -1, 0).astype(np.int8)
    firsts = pa.nulls(len(codes), pa.int64())
    if description.duplicates:
        repeated = _repeated(np.flatnonzero(is_there), paths, source)
        if repeated:
            rows = np.array(list(repeated))
            codes[rows] = 1
            numbers = np.full(len(codes), -1)
            numbers[rows] = list(repeated.values())
            firsts = pa.array(numbers, mask=numbers < 0)
    return _Before(_texts(codes, [Status.MISSING, Status.DUPLICATE]), firsts)


def _repeated(rows: npt.NDArray[np.int64], paths: pa.ChunkedArray, source: Source) -> dict[int, int]:
    """Rows whose file repeats, byte for byte, that of an earlier path, and the row of that path.

    Only files of equal size are read.
    """
    if source.members:
        texts = paths.take(pa.array(rows)).to_pylist()
        embedded = source.embedded(texts)
        if embedded is not None:
            return _repeated_in_tables(rows.tolist(), texts, digests=digests_of(source.store, embedded))
    sizes = source.sizes(paths)[rows]
    is_read = _is_repeated(np.where(sizes < 0, -1 - np.arange(len(rows)), sizes))
    repeated: dict[int, int] = {}
    first_of: dict[tuple[int, bytes], int] = {}
    for row, path in _by_path(rows[is_read], paths):
        with suppress(OSError):  # packing gives it its status
            content = source.read(path)
            key = len(content), hashlib.sha256(content).digest()
            if (first := first_of.setdefault(key, row)) != row:
                repeated[row] = first
    return repeated


def _is_repeated(numbers: npt.NDArray[np.int64]) -> Bools:
    """Which numbers are there more than once."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    is_next = ordered[1:] == ordered[:-1]
    is_repeated = np.zeros(len(numbers), bool)
    is_repeated[order] = np.append(is_next, False) | np.insert(is_next, 0, False)
    return is_repeated


def _by_path(rows: npt.NDArray[np.int64], paths: pa.ChunkedArray) -> Iterator[tuple[int, str]]:
    """Rows with their paths, by these."""
    texts = paths.take(pa.array(rows)).combine_chunks()
    order = pc.array_sort_indices(texts).to_numpy()
    for start in range(0, len(order), ROWS_AT_ONCE):
        part = order[start : start + ROWS_AT_ONCE]
        yield from zip(rows[part].tolist(), texts.take(pa.array(part)).to_pylist(), strict=True)


def _repeated_in_tables(rows: list[int], paths: list[str], *, digests: list[bytes]) -> dict[int, int]:
    """The same of images that stand in tables, by the digests of all of them."""
    repeated = {}
    first_of: dict[bytes, int] = {}
    for _, row, digest in sorted(zip(paths, rows, digests, strict=True)):
        if digest and (first := first_of.setdefault(digest, row)) != row:
            repeated[row] = first
    return repeated


def _contradictions(table: pa.Table, duplicate_of: pa.Array) -> tuple[str, ...]:
    """A line where files of equal bytes have different labels."""
    is_repeated = pc.is_valid(duplicate_of)
    if not pc.any(is_repeated).as_py():
        return ()
    labels = table.drop_columns(["source", "official_split"])
    sources = table["source"].to_pylist()
    others, firsts = pc.indices_nonzero(is_repeated), duplicate_of.drop_null()
    compared = zip(
        others.to_pylist(),
        firsts.to_pylist(),
        *(labels.take(rows).to_pylist() for rows in (others, firsts)),
        strict=True,
    )
    pairs = sorted((sources[first], sources[other]) for other, first, label, kept in compared if label != kept)
    if not pairs:
        return ()
    named = ", ".join(f"{other} and {first}" for first, other in pairs[:_NUM_NAMED])
    more = f" and {len(pairs) - _NUM_NAMED:,} more" if len(pairs) > _NUM_NAMED else ""
    return (f"{len(pairs):,} files have the bytes of another but other labels; the latter is taken: {named}{more}",)


def _shards(splits: npt.NDArray[np.int8], samples_per_shard: int) -> list[ShardPlan]:
    """Cut the rows of each split into shards of equal length (within one), none longer than allowed."""
    shards = []
    for code, name in enumerate(SPLITS):
        rows = np.flatnonzero(splits == code)
        number = -(-len(rows) // samples_per_shard)
        parts = np.array_split(rows, number) if number else []
        shards += [ShardPlan(f"{name}-{i:05d}", int(part[0]), int(part[-1]) + 1) for i, part in enumerate(parts)]
    return shards
