"""The widest of two types holds the values of both, in whichever order they come."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pyarrow as pa
import pytest

from moondream_beam.transforms.inputs.lists.widening import widest

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
UTC, TOKYO = pa.timestamp("us", "UTC"), pa.timestamp("us", "Asia/Tokyo")


def range_of(kind: pa.DataType) -> tuple[int, int]:
    """Return the least and the greatest value of an integer type."""
    if pa.types.is_unsigned_integer(kind):
        return 0, 2**kind.bit_width - 1
    return -(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1


@pytest.mark.parametrize(("one", "other"), list(combinations_with_replacement(INTEGERS, 2)), ids=str)
def test_two_integer_types_give_one_that_holds_the_ends_of_both(one: pa.DataType, other: pa.DataType) -> None:
    found = widest(one, other)
    assert found == widest(other, one)
    for value in (*range_of(one), *range_of(other)):
        assert pa.scalar(value, found).as_py() == value


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (pa.int16(), pa.float32(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.decimal128(5, 2), pa.decimal128(21, 2)),
        (pa.decimal128(5, 2), pa.decimal128(6, 5), pa.decimal128(8, 5)),
        (pa.decimal128(38, 0), pa.decimal128(5, 2), pa.string()),
        (pa.decimal128(5, 2), pa.float64(), pa.string()),
        (pa.bool_(), pa.int8(), pa.string()),
        (pa.date32(), pa.timestamp("ms"), pa.timestamp("ms")),
        (pa.date32(), UTC, pa.string()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), UTC, pa.string()),
        (UTC, TOKYO, UTC),
        (pa.null(), TOKYO, TOKYO),
        (pa.list_(pa.null()), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.list_(pa.int8()), pa.int8(), pa.string()),
        (pa.binary(), pa.string(), None),
        (pa.list_(pa.binary()), pa.string(), None),
        (pa.struct([("a", pa.binary())]), pa.struct([("a", pa.int8())]), None),
        (
            pa.struct([("a", pa.int8())]),
            pa.struct([("a", pa.float64())]),
            pa.struct([("a", pa.float64())]),
        ),
    ],
)
def test_two_types_give_the_narrowest_that_holds_both(
    one: pa.DataType, other: pa.DataType, found: pa.DataType | None
) -> None:
    assert widest(one, other) == widest(other, one) == found


def test_a_struct_gets_the_fields_of_both() -> None:
    one, other = pa.struct([("a", pa.int8())]), pa.struct([("b", pa.string()), ("a", pa.null())])
    assert widest(one, other) == pa.struct([("a", pa.int8()), ("b", pa.string())])
