"""The narrowest type that holds the values of two types without a change to a value."""

from __future__ import annotations

import pyarrow as pa

from ...io.column_types import MAX_DECIMAL_DIGITS, holds_bytes, is_list

# By integer type: its bits, whether it is signed, and its decimal digits.
_INTEGERS = {
    pa.int8(): (8, True, 3),
    pa.int16(): (16, True, 5),
    pa.int32(): (32, True, 10),
    pa.int64(): (64, True, 19),
    pa.uint8(): (8, False, 3),
    pa.uint16(): (16, False, 5),
    pa.uint32(): (32, False, 10),
    pa.uint64(): (64, False, 20),
}
# Bits of an integer type that float32 holds; float64 holds 32. Values of 64 bits are checked one by one.
_MAX_FLOAT32_BITS = 16
_UNITS = ("s", "ms", "us", "ns")


def widest(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of two stored types: one of them, a wider one, or text.

    An integer of 64 bits and a float give float64, although it cannot hold every such integer.

    Returns:
        None if there is none, because one type holds bytes.
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    for rule in (_widest_number, _widest_decimal, _widest_time):
        if (found := rule(one, other) or rule(other, one)) is not None:
            return found
    if is_list(one) and is_list(other):
        inner = widest(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _widest_struct(one, other)
    return None if holds_bytes(one) or holds_bytes(other) else pa.string()


def _widest_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the integer or float type for ``one``, an integer or float, and ``other``, which is not narrower."""
    if pa.types.is_floating(other):
        if pa.types.is_floating(one):
            return pa.float64()
        if one in _INTEGERS:
            return other if _INTEGERS[one][0] <= _MAX_FLOAT32_BITS else pa.float64()
    if one not in _INTEGERS or other not in _INTEGERS:
        return None
    (bits, signed, _), (other_bits, other_signed, _) = _INTEGERS[one], _INTEGERS[other]
    if signed == other_signed:
        return one if bits > other_bits else other
    unsigned_bits = bits if other_signed else other_bits
    signed_bits = max(other_bits if other_signed else bits, 2 * unsigned_bits)
    fits = (kind for kind, (width, is_signed, _) in _INTEGERS.items() if is_signed and width == signed_bits)
    return next(fits, pa.decimal128(_INTEGERS[pa.uint64()][2], 0))


def _widest_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the decimal type for ``one``, a decimal, and ``other``, a decimal or an integer."""
    if not pa.types.is_decimal(one):
        return None
    if other in _INTEGERS:
        digits, scale = _INTEGERS[other][2], 0
    elif pa.types.is_decimal(other):
        digits, scale = other.precision - other.scale, other.scale
    else:
        return None
    scale = max(one.scale, scale)
    precision = max(one.precision - one.scale, digits) + scale
    return pa.decimal128(precision, scale) if precision <= MAX_DECIMAL_DIGITS else pa.string()


def _widest_time(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the timestamp type for ``one``, a timestamp, and ``other``, a timestamp or a date.

    Two time zones give UTC. A timestamp without a time zone and one with a time zone have no common timestamp type.
    """
    if not pa.types.is_timestamp(one):
        return None
    if pa.types.is_date(other) and one.tz is None:
        return one
    if not pa.types.is_timestamp(other) or (one.tz is None) != (other.tz is None):
        return None
    zone = one.tz if one.tz == other.tz else "UTC"
    return pa.timestamp(max(one.unit, other.unit, key=_UNITS.index), zone)


def _widest_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    """Return the struct with the fields of both, those of ``one`` first."""
    fields = {field.name: field.type for field in one}
    for field in other:
        inner = widest(fields.get(field.name, pa.null()), field.type)
        if inner is None:
            return None
        fields[field.name] = inner
    return pa.struct(list(fields.items()))
