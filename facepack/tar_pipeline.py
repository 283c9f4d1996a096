"""A webdataset pipeline over the shards of a build, read from wherever the build is."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import webdataset

from facepack.storage import Store


class _Pipeline(webdataset.DataPipeline, webdataset.FluidInterface):  # type: ignore[misc]
    """Stages with webdataset's own methods to add more: shuffle, decode, to_tuple, batched..."""


def pipeline(store: Store, names: list[str], *, labels: dict[str, bytes]) -> Any:
    """Samples of the shards called `names`; `labels` gives the JSON of each by its key."""
    return _Pipeline(
        webdataset.SimpleShardList(names),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        partial(_opened, store),
        webdataset.tariterators.tar_file_expander,
        webdataset.tariterators.group_by_keys,
        partial(_labelled, labels),
    )


def _opened(store: Store, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        with store.open(shard["url"]) as stream:
            yield {**shard, "stream": stream}


def _labelled(labels: dict[str, bytes], samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        yield {**sample, "json": labels[sample["__key__"]]}
