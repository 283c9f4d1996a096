"""Scores: scores.json, the figures of each split of a run."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from facepack.configuration import first_fault
from facepack.errors import JobError
from facepack.storage import Store
from trainer.results.groups import Category
from trainer.results.protocol import Results

SCORES_FILE = "scores.json"

R = TypeVar("R", bound=Results)


@dataclass(frozen=True)
class Scores(Generic[R]):
    """The figures of a network by split, and which network it was."""

    score: str
    """The name of the score, such as accuracy."""
    epoch: int
    """The epoch of the network, from 0."""
    temperature: float
    splits: dict[str, R]
    groups: dict[str, tuple[Category, ...]] = field(default_factory=dict)
    """The score by categories of the manifest, by split."""
    seen: dict[str, dict[str, int]] = field(default_factory=dict)
    """Images that the run met in training, by split and reason; a split is missing where that is not known."""
    unseen: dict[str, R] = field(default_factory=dict)
    """The figures without them, of splits that have some."""

    @property
    def split(self) -> str:
        """The split that counts: test, where there is one; empty without any."""
        return next((split for split in ("test", "valid", "train") if split in self.splits), "")

    def seen_line(self, split: str) -> str:
        """How many images of a split the run met in training, and the figures without them; empty for none."""
        counts = self.seen.get(split)
        if not counts:
            return ""
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.items())
        line = f"{split}: {sum(counts.values()):,} of {self.splits[split].num:,} images are of its training ({reasons})"
        if split not in self.unseen:
            return f"{line}, so there is no figure without them"
        return f"{line}; without them: {self.unseen[split].summary_line()}"

    def write(self, folder: Path) -> None:
        """Write scores.json, whole."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        Store(str(folder)).write(SCORES_FILE, text.encode())


def read(folder: Path, *, results: type[R]) -> Scores[R] | None:
    """Read scores.json of a task with these results; None without the file, `JobError` that names the wrong field."""
    try:
        content = (folder / SCORES_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return TypeAdapter(Scores[results]).validate_json(content, strict=True)  # type: ignore[valid-type]
    except ValidationError as error:
        again = f"facepack evaluate {folder} writes it again"
        raise JobError(
            f"{folder / SCORES_FILE}: damaged, or of another version ({first_fault(error)}); {again}"
        ) from error
