"""Weighting: how often each sample is drawn in the mean, out of weights per class, attribute, bin or row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facepack.errors import FieldError, nearest
from trainer.loading.columns import ManifestColumns
from trainer.loading.targets import ATTRIBUTES, CLASS, Target, attribute_names, target

Weights = Mapping[str, Any] | Sequence[float] | npt.NDArray[Any]
"""By name, or a number per row of the manifest."""


@dataclass(frozen=True)
class Weighted:
    """The samples that weights are for, and the targets that their names may come from."""

    columns: ManifestColumns
    rows: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    targets: Mapping[str, Target]

    def target(self, name: str) -> Target:
        """A target of the samples, read where it is not loaded."""
        if name in self.targets:
            return self.targets[name]
        return target(name, self.columns, rows=self.rows, class_names=self.class_names)


def sample_weights(weights: Weights, weighted: Weighted) -> npt.NDArray[np.float64]:
    """The weight of each sample, float64 (num_samples,).

    `weights` are a number per row of the manifest; or by name of a class, of a category or bin of a loaded target, or
    of an attribute, whose samples that have it are weighted. `{TARGET: {NAME: weight}}` says which of them is meant.
    What is not named has weight 1; a sample of several names has their product. Raises `FieldError`.
    """
    if isinstance(weights, Mapping):
        values = np.ones(len(weighted.rows), np.float64)
        for name, weight in weights.items():
            if isinstance(weight, Mapping):
                for inner, number in weight.items():
                    values *= _factors(weighted.target(name), inner, _number(number, name=f"{name} {inner}"))
            else:
                values *= _factors(_target_with(name, weighted), name, _number(weight, name=name))
    else:
        values = _of_rows(weights, num_rows=len(weighted.columns))[weighted.rows]
    if not values.any():
        raise FieldError("weights", "", "every sample has weight 0, so none is drawn")
    return values


def _target_with(name: str, weighted: Weighted) -> Target:
    """The target that has a name: the class, then those that are loaded, then the attributes."""
    known = list(weighted.class_names)
    if name in known:
        return weighted.target(CLASS)
    for loaded in weighted.targets.values():
        if name in loaded.names:
            return loaded
        known.extend(loaded.names)
    names = attribute_names(weighted.columns)
    if name in names:
        return weighted.target(ATTRIBUTES) if ATTRIBUTES in weighted.targets else _attribute(name, weighted)
    raise FieldError("weights", name, f"no class, bin, category or attribute; {nearest(name, [*known, *names])}")


def _attribute(name: str, weighted: Weighted) -> Target:
    """An attribute alone, as `attributes` has it."""
    values = weighted.target(name).values
    return Target(values[:, None].astype(np.float32), (name,))


def _factors(of: Target, name: str, weight: float) -> npt.NDArray[np.float64]:
    """The weight where a sample has this name, else 1."""
    if name not in of.names:
        advice = nearest(str(name), of.names) if of.names else "the target is a number: name bins of it"
        raise FieldError("weights", name, f"not there; {advice}")
    number = of.names.index(name)
    has_name = of.values == number if of.values.ndim == 1 else of.values[:, number] == 1
    return np.where(has_name, weight, 1.0)


def _number(weight: Any, *, name: str) -> float:
    is_number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    if not is_number or not np.isfinite(weight) or weight < 0:
        raise FieldError("weights", f"{name}={weight!r}", "expected a number, at least 0")
    return float(weight)


def _of_rows(weights: Any, *, num_rows: int) -> npt.NDArray[np.float64]:
    try:
        values = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise FieldError("weights", "", "expected numbers, one per row of the manifest, or weights by name") from error
    if values.shape != (num_rows,):
        shown = f"of shape {values.shape}"
        raise FieldError("weights", shown, f"expected one per row of the manifest, which has {num_rows:,}")
    if (wrong := ~np.isfinite(values) | (values < 0)).any():
        first = int(np.flatnonzero(wrong)[0])
        raise FieldError("weights", values[first], f"of row {first}: expected a number, at least 0")
    return values
