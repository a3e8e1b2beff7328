"""Each Arrow type has one stored type, and a value is stored as it is or refused."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from moondream_beam.transforms.io.column_types import (
    as_text,
    fit_array,
    holds_bytes,
    is_bytes,
    is_list,
    is_text,
    plain_type,
    stored_type,
    without_nulls,
)

TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.large_string())]
TEXTS.append(pa.run_end_encoded(pa.int32(), pa.string()))
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.dictionary(pa.int8(), pa.binary())]
LISTS = [pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.list_view(pa.int8()), pa.large_list_view(pa.int8())]
LISTS.append(pa.list_(pa.int8(), 2))


def test_all_encodings_of_text_bytes_and_lists_are_the_same() -> None:
    assert all(is_text(kind) and not is_bytes(kind) and stored_type(kind) == pa.string() for kind in TEXTS)
    assert all(is_bytes(kind) and not is_text(kind) and stored_type(kind) == pa.binary() for kind in BYTES)
    assert all(is_list(kind) and plain_type(kind) == pa.list_(pa.int8()) for kind in LISTS)
    assert not any(is_text(kind) or is_bytes(kind) for kind in (*LISTS, pa.int8(), pa.null()))


def test_encodings_are_plain_inside_lists_and_structs_too() -> None:
    kind = pa.large_list(pa.struct([pa.field("a", pa.string_view(), nullable=False), ("b", pa.large_binary())]))
    assert plain_type(kind) == pa.list_(pa.struct([("a", pa.string()), ("b", pa.binary())]))
    assert holds_bytes(plain_type(kind)) and not holds_bytes(pa.list_(pa.string()))


def test_null_stays_open_until_the_end() -> None:
    kind = stored_type(pa.struct([("a", pa.list_(pa.null()))]))
    assert kind == pa.struct([("a", pa.list_(pa.null()))])
    assert without_nulls(kind) == pa.struct([("a", pa.list_(pa.string()))])


@pytest.mark.parametrize(
    "kind",
    [pa.month_day_nano_interval(), pa.dense_union([pa.field("a", pa.int8())]), pa.list_(pa.month_day_nano_interval())],
)
def test_a_type_on_which_readers_differ_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match="cast the column to text"):
        stored_type(kind)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1, 1001], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([2**53 + 1]), pa.float64()),
        (pa.array([0.97]), pa.int64()),
        (pa.array([dt.datetime(2026, 1, 2, 3)]), pa.date32()),
        (pa.array([Decimal("1.25")]), pa.decimal128(5, 1)),
        (pa.array([0.1]), pa.float32()),
        (pa.array(["01"]), pa.int64()),
        (pa.array([-1]), pa.uint64()),
        (pa.array([b"\xff"]), pa.string()),
        (pa.array([[0.5]]), pa.list_(pa.int8())),
        (pa.array([{"a": 300}]), pa.struct([("a", pa.int8())])),
    ],
)
def test_a_value_that_would_change_is_refused(array: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises(ValueError):
        fit_array(array, kind)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1, 2], None, [], [3]]),
        pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
        pa.array([["a"], None, []], pa.list_view(pa.string())),
        pa.array([{"a": 1}, None, {"a": None}]),
        pa.array([[{"a": [1]}], None, [None, {"a": None}]]),
        pa.array(["a", None]).dictionary_encode(),
        pa.array([0.5, None], pa.float16()),
    ],
    ids=lambda array: str(array.type),
)
def test_nulls_and_slices_stay_where_they_are(array: pa.Array) -> None:
    kind = stored_type(array.type)
    for start in range(len(array)):
        fitted = fit_array(array.slice(start), kind)
        fitted.validate(full=True)
        assert fitted.type == kind and fitted.to_pylist() == array.slice(start).to_pylist()


def test_not_a_number_stays_not_a_number() -> None:
    (value,) = fit_array(pa.array([math.nan], pa.float16()), pa.float32()).to_pylist()
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (3, "3"),
        (0.1, "0.1"),
        (True, "true"),
        (Decimal("1E-10"), "0.0000000001"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        ([1, "é", dt.date(2026, 1, 2)], '[1, "é", "2026-01-02"]'),
        ({"a": None}, '{"a": null}'),
    ],
)
def test_values_become_text_in_full(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("value", [b"a", [b"a"], {"a": {"b": b"a"}}])
def test_bytes_do_not_become_text(value: Any) -> None:
    with pytest.raises(ValueError, match="bytes"):
        as_text(value)
