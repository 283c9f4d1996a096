"""The head of a plan: all that is known of a build before packing but its rows, kept beside them in its place."""

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from facepack import plan_file
from facepack.configuration import Configuration
from facepack.storage import Store


@dataclass(frozen=True)
class PlannedShard:
    """One shard of a plan: its name without suffix, and the digest of all that decides its bytes but the images."""

    name: str
    num_images: int
    digest: str


@dataclass(frozen=True)
class Remarks:
    """What a user is to know of a plan."""

    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    unparsed: tuple[str, ...]
    """A line for each row that cannot be read."""
    left_out: dict[str, int]
    """Images that are no part of the dataset and rows without a split or class, by reason."""
    left_out_examples: dict[str, list[str]]
    """The first of the files among them, by reason."""
    num_leaking: int
    """People in more than one split."""


@dataclass(frozen=True)
class PlanHead:
    """A plan without its rows; shards have the numbers of their row groups."""

    fingerprint: str
    """Of what the plan was made from."""
    configuration: Configuration
    class_names: tuple[str, ...]
    num_rows: int
    """In shards and in none."""
    shards: tuple[PlannedShard, ...]
    columns_with_nulls: tuple[str, ...]
    digest: str
    """sha256 of the rows and of what else decides the whole build, with the images."""
    remarks: Remarks

    @property
    def num_unpacked(self) -> int:
        """Rows that are in no shard."""
        return self.num_rows - sum(shard.num_images for shard in self.shards)


def write_head(store: Store, head: PlanHead) -> None:
    """Write the head of a plan, last: where it is there, the plan is whole."""
    store.write(plan_file.HEAD_FILE, json.dumps(asdict(head)).encode())


def read_head(store: Store, fingerprint: str) -> PlanHead | None:
    """The head of the plan in a place, if it was made from the same."""
    try:
        head = TypeAdapter(PlanHead).validate_json(store.read(plan_file.HEAD_FILE))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return head if head.fingerprint == fingerprint else None
