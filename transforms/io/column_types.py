"""The types in which kept columns are stored: those for which all common readers of Parquet return the same values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# The most digits of a decimal that Spark and polars read.
MAX_DECIMAL_DIGITS = 38
UUID = "arrow.uuid"
KEY, VALUE = "key", "value"


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type holds text, in any encoding: plain, large, view, dictionary or run-end."""
    return bool(plain_type(kind) == pa.string())


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a type holds bytes, in any encoding: those of text, and of a fixed size."""
    return bool(plain_type(kind) == pa.binary())


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is a list, in any encoding: plain, large, view or of a fixed size."""
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type with the same values in Arrow's plain encoding, also inside lists and structs.

    Parquet itself does not know these encodings: they are in the schema that Arrow adds to a file.
    """
    return _map_leaves(kind, lambda leaf: leaf)


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which values of type ``kind`` are stored. ``docs/outputs.md`` has the table of all types.

    Null stays null, because another file may have values; see ``without_nulls``.

    Raises:
        ValueError: if there is none, because readers differ: for intervals and unions.
    """
    return _map_leaves(kind, _stored_leaf)


def without_nulls(kind: pa.DataType) -> pa.DataType:
    """Return a stored type with text in place of null, which some readers refuse."""
    return _map_leaves(kind, lambda leaf: pa.string() if pa.types.is_null(leaf) else leaf)


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a stored type is bytes, or a list or struct with bytes in it."""
    if is_list(kind):
        return holds_bytes(kind.value_type)
    return any(holds_bytes(field.type) for field in kind) if pa.types.is_struct(kind) else is_bytes(kind)


def fit_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the array in type ``kind``, which is a stored type that holds the values of the array's type.

    Fields of structs that the array lacks become null.

    Raises:
        ValueError: if a value would change.
    """
    array = _plain_array(array)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_list(kind) and is_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths.cast(pa.int64()))])
        values = fit_array(pc.list_flatten(array), kind.value_type)
        return pa.ListArray.from_arrays(offsets.cast(pa.int32()), values, type=kind, mask=array.is_null())
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        there = dict(zip([field.name for field in array.type], array.flatten(), strict=True))
        nulls = pa.nulls(len(array))
        fields = [fit_array(there.get(field.name, nulls), field.type) for field in kind]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    if kind == pa.string() and array.type != pa.string():
        return _text_array(array)
    return array if array.type == kind else _cast(array, kind)


class JsonNumber(float):
    """A number with a fraction or an exponent, which keeps the text that stands in the JSON: 1.10 stays 1.10."""

    def __new__(cls, text: str) -> JsonNumber:
        """Return the number that a text is."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    @property
    def is_cut(self) -> bool:
        """Whether the number is too large or too small for a double, so that it became infinite or 0."""
        digits = self.text.lower().partition("e")[0]
        return math.isinf(self) or (not self and any(digit in digits for digit in "123456789"))

    def __str__(self) -> str:
        return self.text


def as_text(value: Any) -> str:
    """Return a value as text: text as it is, dates in ISO 8601, numbers in full, and other values as JSON.

    Raises:
        ValueError: if the value is bytes, or contains bytes.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        raise ValueError("bytes are no text")
    if isinstance(value, JsonNumber):
        return value.text
    return json.dumps(value, ensure_ascii=False, default=as_text)


def _map_leaves(kind: pa.DataType, leaf_type: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return ``kind`` in plain encodings, with ``leaf_type`` applied to each type that holds no other types."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _map_leaves(kind.value_type, leaf_type)
    if is_list(kind):
        return pa.list_(_map_leaves(kind.value_type, leaf_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _map_leaves(field.type, leaf_type)) for field in kind])
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        kind = pa.binary()
    return leaf_type(kind)


def _stored_leaf(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if kind.extension_name == UUID else stored_type(kind.storage_type)
    if pa.types.is_map(kind):
        return stored_type(pa.list_(pa.struct([(KEY, kind.key_type), (VALUE, kind.item_type)])))
    if pa.types.is_time(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_timestamp(kind):
        return pa.timestamp({"s": "ms", "ns": "us"}.get(kind.unit, kind.unit), kind.tz)
    if pa.types.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale) if kind.precision <= MAX_DECIMAL_DIGITS else pa.string()
    if pa.types.is_union(kind) or pa.types.is_interval(kind):
        raise ValueError(f"readers differ on {kind}: cast the column to text")
    return kind


def _plain_array(array: pa.Array) -> pa.Array:
    """Return the values of an array without its outer encoding or extension type; of a map, a list of structs."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == UUID:
            return pa.array([value and str(value) for value in array.to_pylist()], pa.string())
        return _plain_array(array.storage)
    if pa.types.is_dictionary(kind):
        return _plain_array(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain_array(pc.run_end_decode(array))
    if pa.types.is_map(kind):
        return array.cast(pa.list_(pa.struct([(KEY, kind.key_type), (VALUE, kind.item_type)])))
    if is_text(kind) or is_bytes(kind):
        return array.cast(plain_type(kind))
    return array


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the array in type ``kind``.

    Raises:
        ValueError: if a value would change. Arrow itself drops times of day and digits of floats without an error.
    """
    found = array.cast(kind)
    if pa.types.is_float16(array.type):
        # Arrow can't compare these. All types into which they are cast hold them.
        return found
    is_same = pc.equal(found.cast(array.type), array)
    if pa.types.is_floating(array.type):
        is_same = pc.or_(is_same, pc.is_nan(array))
    if not pc.all(is_same, min_count=0).as_py():
        raise ValueError(f"casting from {array.type} to {kind} would lose data")
    return found


def _text_array(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_binary(kind):
        return array.cast(pa.string())
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        # By Arrow, because Python has no nanoseconds. Zeros at the end of a fraction are dropped.
        text = pc.replace_substring_regex(array.cast(pa.string()), r"(\.[0-9]*?)0+(Z?)$", r"\1\2")
        return pc.replace_substring_regex(text, r"\.(Z?)$", r"\1")
    plain = fit_array(array, stored_type(kind)) if pa.types.is_nested(kind) else array
    return pa.array([None if value is None else as_text(value) for value in plain.to_pylist()], pa.string())
