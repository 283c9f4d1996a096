"""Image columns: which column of a table names the images, and where these lie."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facepack.errors import FieldError, JobError
from facepack.label_file import PLACE
from facepack.matching import Matched, as_path, beside, matched, root_of
from facepack.published_rows import Columns, filled
from facepack.signature import IMAGE_SUFFIXES
from facepack.source import Source

_USUAL = (
    "file_name filename file image image_id image_name image_path image_file img img_id img_name img_path imgpath path "
    "file_path filepath photo picture name source id key"
)
_NUM_LOOKED_AT = 500
_LEAST_SHARE = 0.1
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*/([^?#]*).*", re.DOTALL)
_NAME = "name"


def metadata_column(columns: Columns, *, where: str) -> str:
    """The column of imagefolder's file names, "" without one; `FieldError` where several could be."""
    names = [name for name in columns if name.strip().lower() == "file_name"]
    names = names or [name for name in columns if name.strip().lower().endswith("_file_name")]
    images = [name for name in names if name.lower().startswith(("image", "img", "photo", "picture"))]
    names = images if len(images) == 1 else names
    if len(names) > 1:
        advice = f"{where} names several images a row: {', '.join(names)}; say which with --labels {where} as well"
        raise FieldError("labels_image", "", advice)
    return names[0] if names else ""


def image_column(columns: Columns, source: Source, *, prefixes: Sequence[str], where: str) -> str:
    """The column whose values are there as files; of several that of the most usual name.

    Raises `FieldError` where several could be, `JobError` where none is.
    """
    names = [name for name in columns if not name.startswith(PLACE)]
    with_suffix = [name for name in names if _has_suffixes(columns[name])]  # numbers may be names of files by chance
    names = with_suffix or names
    shares = {name: _share_there(columns[name], source, prefixes) for name in names}
    best = max(shares.values(), default=0.0)
    candidates = [name for name in names if shares[name] >= max(_LEAST_SHARE, best / 2) and shares[name]]
    candidates = candidates or [name for name in names if shares[name] == best and best]
    if not candidates:
        first = next((name for name in _usual(names)), names[0] if names else "")
        value = next((text for text in _texts(columns[first]).to_pylist() if text), "") if first else ""
        shown = f"; {first} is {value!r}, but {beside(value, source)}" if value else ""
        listed = ", ".join(name for name in columns if not name.startswith(PLACE))
        raise JobError(f"{where}: none of the columns {listed} names files of {source.location}{shown}")
    usual = _usual(candidates)
    if len(candidates) > 1 and not usual:
        advice = f"{where} has several columns of images: {', '.join(candidates)}; name the right column"
        raise FieldError("labels_image", "", advice)
    return usual[0] if usual else candidates[0]


def _has_suffixes(column: pa.ChunkedArray) -> bool:
    """Whether most values end as names of images do."""
    texts = pc.utf8_lower(pc.unique(_texts(column)))
    ends = [pc.ends_with(texts, suffix) for suffix in IMAGE_SUFFIXES]
    return bool(2 * np.sum([pc.sum(end).as_py() or 0 for end in ends]) > len(texts))


def _usual(names: Sequence[str]) -> list[str]:
    """Those of a usual name, the most usual first."""
    by_name = {re.sub(r"[ -]", "_", name.strip().casefold()): name for name in reversed(names)}
    return [by_name[name] for name in _USUAL.split() if name in by_name]


def _share_there(column: pa.ChunkedArray, source: Source, prefixes: Sequence[str]) -> float:
    """Which part of some values, evenly taken, are files that are there."""
    texts = _texts(column)
    texts = texts.take(pa.array(np.linspace(0, len(texts) - 1, min(len(texts), _NUM_LOOKED_AT), dtype=int)))
    if not len(texts) or 2 * pc.count_distinct(texts).as_py() <= len(texts):  # images do not come again and again
        return 0.0
    return float(source.has(located(texts, source, prefixes=prefixes).paths).mean())


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def located(column: pa.ChunkedArray, source: Source, *, prefixes: Sequence[str]) -> Matched:
    """The paths that a column means: below one of some folders, below any other, or by the ends of longer paths."""
    names = _without_addresses(as_path(_texts(column)))
    columns = {_NAME: names}
    template = f"{{{_NAME}}}"
    for prefix in prefixes:
        paths = filled(prefix, template, columns)
        if source.has(paths).any():
            return matched(paths, source)
    sample = names.take(pa.array(np.linspace(0, len(names) - 1, min(len(names), _NUM_LOOKED_AT), dtype=int)))
    root = root_of(sample, source) if len(names) else None
    if root is not None:
        return matched(filled(root, template, columns), source)
    ends = matched(filled("/", template, columns), source)  # as paths on another machine
    return Matched(pc.utf8_ltrim(ends.paths, "/"), ends.note)


def _without_addresses(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths out of URLs."""
    if not pc.any(pc.match_substring(names, "://")).as_py():
        return names
    matches = [(text, _URL.fullmatch(text or "")) for text in names.to_pylist()]
    paths = [f"/{unquote(match[1])}" if match else text for text, match in matches]
    return pa.chunked_array([pa.array(paths, pa.string())])
