"""Column text: columns of any plain type as the text that a label file would have, each distinct value once."""

import pyarrow as pa
import pyarrow.compute as pc

_TEXT = pa.dictionary(pa.int32(), pa.string())


def is_plain(kind: pa.DataType) -> bool:
    """True for a type whose values are labels: numbers, booleans, text, dates; not lists, structs, bytes."""
    if pa.types.is_dictionary(kind):
        return is_plain(kind.value_type)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (pa.types.is_nested(kind) or is_bytes or pa.types.is_binary_view(kind) or pa.types.is_null(kind))


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text, dictionary-encoded: booleans as 0 and 1, whole numbers without a point, NaN and blank as null."""
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # no rows, or more than an array can hold
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else pa.array([], column.type)
    encoded = combined if pa.types.is_dictionary(combined.type) else combined.dictionary_encode()
    texts = _texts(encoded.dictionary)
    # Values of one text, or of none, share one number.
    codes = pc.index_in(texts, value_set=texts.unique().drop_null(), skip_nulls=True)
    indices = codes.take(encoded.indices)
    array = pa.DictionaryArray.from_arrays(indices.cast(pa.int32()), texts.unique().drop_null())
    return pa.chunked_array([array], _TEXT)


def _texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8()).cast(pa.string())
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
        is_whole = pc.all(pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))).as_py()
        return values.cast(pa.int64()).cast(pa.string()) if is_whole else _shortest(values)
    text = values.cast(pa.string())
    stripped = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.equal(stripped, ""), None, stripped)


def _shortest(values: pa.Array) -> pa.Array:
    """Numbers by their shortest text: a float32 of 20.1 is 20.1."""
    scalars = values.to_numpy(zero_copy_only=False)
    is_there = pc.is_valid(values).to_pylist()
    return pa.array(
        [str(value) if there else None for value, there in zip(scalars, is_there, strict=True)], pa.string()
    )
