"""Doubts: every label with how doubtful it is, and the ones that are likely wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trainer.doubts import confident, spread
from trainer.doubts.held_out import HeldOut

_FEWEST = 2
"""Folds that must hold a class, for each network to have seen it."""


@dataclass(frozen=True)
class Joint:
    """The confident joint of the classes, or of the two values of an attribute."""

    title: str
    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    """(num_names, num_names): photos by label (rows) and by what they confidently are (columns)."""
    num_labels: int
    num_wrong: float
    """Labels that are wrong by the estimated joint."""


@dataclass(frozen=True)
class Doubts:
    """All labels that were looked at, the most doubtful first."""

    table: pa.Table
    """Columns: row, key, part, label (what is doubted: class, an attribute or a number), given, likely, and doubt: the
    greater the likelier wrong; is_doubtful. Of classes and attributes also given_probability and likely_probability,
    of numbers spread."""
    joints: tuple[Joint, ...] = ()
    notes: tuple[str, ...] = ()

    def with_sources(self, sources: Sequence[str]) -> "Doubts":
        """The same, with the path of each photo as column source."""
        return replace(self, table=self.table.append_column("source", pa.array(sources, pa.string())))

    @property
    def doubtful(self) -> pa.Table:
        """The rows that are likely wrong."""
        return self.table.filter(self.table["is_doubtful"])


def doubts_of(held_out: HeldOut) -> Doubts:
    """How doubtful each label is: by confident learning, or of numbers by the local spread."""
    if held_out.kind == "numbers":
        return _numbers(held_out)
    if held_out.kind == "attributes":
        return _attributes(held_out)
    return _classes(held_out)


def _classes(held_out: HeldOut) -> Doubts:
    names, target = held_out.run.names, held_out.run.recipe.task.target
    given, probabilities = held_out.given, held_out.predicted
    is_known, notes = np.ones(len(given), bool), []
    if held_out.run.recipe.fold:
        is_known = _is_judged(given, held_out.parts, num_names=len(names))
    if num_unknown := int((~is_known).sum()):
        lost = ", ".join(names[code] for code in np.unique(given[~is_known])[:3])
        notes.append(f"{num_unknown:,} labels are not looked at: all of their class are in one fold (such as {lost}).")
    rows = np.flatnonzero(is_known)
    given, probabilities = given[rows], probabilities[rows]
    table = pa.table(_common(held_out, rows, label=target) | _judged(given, probabilities, names=names))
    return Doubts(_sorted(table), (_joint(given, probabilities, title=target, names=names),), tuple(notes))


def _attributes(held_out: HeldOut) -> Doubts:
    """Each attribute as two classes of its own."""
    tables, joints, rows = [], [], np.arange(len(held_out.rows))
    for number, name in enumerate(held_out.run.names):
        given, has = held_out.given[:, number], held_out.predicted[:, number].astype(np.float64)
        words = (f"not {name}", name)
        probabilities = np.stack([1 - has, has], axis=1)
        joints.append(_joint(given, probabilities, title=name, names=words))
        tables.append(pa.table(_common(held_out, rows, label=name) | _judged(given, probabilities, names=words)))
    return Doubts(_sorted(pa.concat_tables(tables)), tuple(joints))


def _numbers(held_out: HeldOut) -> Doubts:
    given, predicted = held_out.given.astype(np.float64), held_out.predicted.astype(np.float64)
    centre, std = spread.local_spread(given, predicted)
    doubt = np.abs(given - predicted - centre) / std
    columns = _common(held_out, np.arange(len(given)), label=held_out.run.recipe.task.target)
    columns |= {"given": given, "likely": predicted + centre, "spread": std}
    return Doubts(_sorted(pa.table(columns | {"doubt": doubt, "is_doubtful": doubt > spread.LIMIT})))


def _judged(given: confident.Codes, probabilities: confident.Floats, *, names: Sequence[str]) -> dict[str, Any]:
    """The columns of labels (num,) of one kind."""
    everyone, others = np.arange(len(given)), probabilities.astype(np.float64).copy()
    own = others[everyone, given]
    others[everyone, given] = -1.0
    likely, words = others.argmax(axis=1), pa.array(names, pa.string())
    return {
        "given": words.take(pa.array(given)),
        "likely": words.take(pa.array(likely)),
        "given_probability": own,
        "likely_probability": others[everyone, likely],
        "doubt": confident.doubts(given, probabilities),
        "is_doubtful": confident.are_wrong(given, probabilities),
    }


def _joint(given: confident.Codes, probabilities: confident.Floats, *, title: str, names: tuple[str, ...]) -> Joint:
    counts, estimated = confident.confident_joint(given, probabilities), confident.estimated_joint(given, probabilities)
    return Joint(title, names, counts, len(given), float(estimated.sum() - np.trace(estimated)))


def _is_judged(given: confident.Codes, parts: Sequence[str], *, num_names: int) -> npt.NDArray[np.bool_]:
    """False for labels of a class that a single fold holds: its network never saw the class."""
    folds = pa.array(parts, pa.string()).dictionary_encode()
    is_in = np.zeros((num_names, len(folds.dictionary)), bool)
    is_in[given, folds.indices.to_numpy()] = True
    is_judged: npt.NDArray[np.bool_] = (is_in.sum(axis=1) >= _FEWEST)[given]
    return is_judged


def _common(held_out: HeldOut, rows: npt.NDArray[np.int64], *, label: str) -> dict[str, Any]:
    return {
        "row": held_out.rows[rows],
        "key": pa.array(held_out.keys).take(pa.array(rows)),
        "part": pa.array(held_out.parts).take(pa.array(rows)),
        "label": pa.repeat(label, len(rows)),
    }


def _sorted(table: pa.Table) -> pa.Table:
    """Likely wrong labels first, then the most doubtful; of equals by row."""
    is_doubtful = table["is_doubtful"].to_numpy(zero_copy_only=False)
    order = np.lexsort((table["row"].to_numpy(), -table["doubt"].to_numpy(), ~is_doubtful))
    return table.take(pa.array(order))
