"""Same target: the one name under which several builds hold what a recipe learns, such as age in years or in groups."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from facepack import manifest
from facepack.errors import UsageError
from trainer.data import RunBuild
from trainer.loading.ranges import Ranges
from trainer.loading.targets import ATTRIBUTES, CLASS, MIDDLE, first_there

_AGE = "age"


def common_target(target: str, builds: Sequence[RunBuild]) -> str:
    """The target, with what stands for it in builds that lack it: "age|real_age|age_group:middle".

    Ages in years stand for each other under any name, and the middle of an age group for them; where age groups are
    learnt, ages are put into these. Raises `UsageError` for a build that has neither.
    """
    ranges = _ranges_learnt(target, builds)
    if ranges is not None and any(target not in columns_of(build) for build in builds):
        target = f"{target}:{ranges.bins}"
    choices = [target]
    for build in builds:
        if column_in(target, build):
            continue
        choice = next(_stand_ins(target, build), None)
        if choice is None:
            there = ", ".join([*manifest.label_columns(build.table), *[CLASS] * bool(build.build.class_names)])
            what = "no classes" if target == CLASS else f"no {target.replace('|', ' or ')}"
            raise UsageError(f"{build.location}: {what} to test on; it has {there or 'no labels'}")
        choices.append(choice)
    return "|".join(dict.fromkeys(choices))


def columns_of(build: RunBuild) -> list[str]:
    """What may be learnt of a build: its label columns, attributes where it has any, and its class."""
    labels = manifest.label_columns(build.table)
    attributes = [name for name in labels if build.table.schema.field(name).type == pa.int8()]
    return [*labels, *[ATTRIBUTES] * bool(attributes), *[CLASS] * bool(build.build.class_names)]


def column_in(target: str, build: RunBuild) -> str:
    """The target as it is read of a build: the first of FIRST|SECOND that is there; empty for none."""
    known = columns_of(build)
    choice = first_there(target, known)
    return choice if choice.partition(":")[0] in known else ""


def ranges_of(name: str, build: RunBuild) -> Ranges | None:
    """The ranges that a category of a build holds; None for other columns."""
    column = build.table[name]
    if not pa.types.is_string(column.type):
        return None
    return Ranges.of(column.drop_null().unique().to_pylist())


def _ranges_learnt(target: str, builds: Sequence[RunBuild]) -> Ranges | None:
    """The ranges of all builds whose column of this name holds any."""
    names = {name for build in builds if target in build.table.column_names for name in _texts(target, build)}
    return Ranges.of(sorted(names)) if names else None


def _texts(name: str, build: RunBuild) -> list[str]:
    column = build.table[name]
    return column.drop_null().unique().to_pylist() if pa.types.is_string(column.type) else []


def _stand_ins(target: str, build: RunBuild) -> Iterator[str]:
    """Columns of a build that hold an age, as the target has it; the true age before the apparent one."""
    column, _, bins = target.partition(":")
    if _AGE not in column.split("_"):
        return
    labels = [name for name in manifest.label_columns(build.table) if _AGE in name.split("_")]
    numbers = [name for name in labels if name.split("_")[-1] == _AGE and _is_number(build.table[name].type)]
    for name in sorted(numbers, key=lambda name: (name != _AGE, not name.startswith("real"))):
        yield f"{name}:{bins}" if bins else name
    for name in labels:
        if ranges_of(name, build) is not None:
            yield f"{name}:{bins or MIDDLE}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
