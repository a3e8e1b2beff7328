"""Digests of kept values: equal for equal values, other for others, and the same on every machine."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from moondream_beam.transforms.core.kept.values import kept_digest

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678)
# Each value has a type of Arrow, and differs from all others.
VALUES: list[tuple[Any, pa.DataType]] = [
    (True, pa.bool_()),
    (False, pa.bool_()),
    (7, pa.int8()),
    (2**63, pa.uint64()),
    (0.97, pa.float64()),
    (float("nan"), pa.float64()),
    (float("inf"), pa.float32()),
    (Decimal("1.20"), pa.decimal128(5, 2)),
    (Decimal("1." + "3" * 50), pa.decimal256(60, 50)),
    ("7", pa.string()),
    ("x", pa.large_string()),
    ("", pa.string_view()),
    (b"x", pa.binary()),
    (b"", pa.large_binary()),
    (date(2026, 1, 2), pa.date32()),
    (time(3, 4, 5, 678), pa.time64("us")),
    (time(3, 4, 5), pa.time32("s")),
    (MOMENT, pa.timestamp("us")),
    (MOMENT.replace(microsecond=0), pa.timestamp("s")),
    (MOMENT.replace(tzinfo=timezone.utc), pa.timestamp("us", "UTC")),
    (timedelta(seconds=3), pa.duration("ms")),
    ([1, 2], pa.list_(pa.int64())),
    ([2, 1], pa.large_list(pa.int64())),
    (["1", "2"], pa.list_(pa.string())),
    ([], pa.list_(pa.string())),
    ([[1], [2]], pa.list_(pa.list_(pa.int8()))),
    ({"a": 1, "b": [{"c": "x"}]}, pa.struct({"a": pa.int64(), "b": pa.list_(pa.struct({"c": pa.string()}))})),
    ([("k", 1)], pa.map_(pa.string(), pa.int32())),
    (pa.MonthDayNano([1, 2, 3]), pa.month_day_nano_interval()),
    (UUID(int=5).bytes, pa.uuid()),
]


def test_each_value_of_each_type_has_a_digest_of_its_own_and_the_same_after_parquet_types() -> None:
    digests = {}
    for value, kind in VALUES:
        read = pa.array([value], kind).to_pylist()[0]
        digests[f"{read!r} {kind}"] = kept_digest((read,))
    assert len(set(digests.values())) == len(VALUES) and all(len(digest) == 64 for digest in digests.values())


@pytest.mark.parametrize(
    ("one", "same"),
    [
        (1, 1.0),
        (1, Decimal("1.00")),
        (0.0, -0.0),
        (Decimal("1.10"), Decimal("1.1")),
        (7, np.int64(7)),
        (True, np.bool_(True)),
        ([1.5], np.array([1.5])),
        ((1, 2), [1, 2]),
        ({"a": 1, "b": None}, {"a": 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (MOMENT.replace(tzinfo=timezone.utc), MOMENT.replace(tzinfo=timezone.utc).astimezone(ZoneInfo("Asia/Tokyo"))),
        ("x", pa.scalar("x")),
        (b"x", bytearray(b"x")),
    ],
)
def test_equal_values_of_other_classes_have_the_same_digest(one: Any, same: Any) -> None:
    assert kept_digest((one,)) == kept_digest((same,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("b", "a")),
        (("ab", ""), ("a", "b")),
        (("a", None), (None, "a")),
        ((["a", "b"],), (["a,b"],)),
        ((1,), ("1",)),
        ((1,), (True,)),
        ((0.1,), (0.1 + 2**-56,)),
        ((2**53,), (2**53 + 1,)),
        ((Decimal("1." + "3" * 40),), (Decimal("1." + "3" * 39 + "4"),)),
        ((MOMENT,), (MOMENT.replace(tzinfo=timezone.utc),)),
        ((pa.scalar(1, pa.timestamp("ns")),), (pa.scalar(2, pa.timestamp("ns")),)),
        ((pa.scalar(1, pa.duration("ns")),), (pa.scalar(2, pa.duration("ns")),)),
    ],
)
def test_values_that_differ_a_little_have_other_digests(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert kept_digest(one) != kept_digest(other)


def test_without_values_there_is_no_digest() -> None:
    assert kept_digest(()) == kept_digest((None,)) == kept_digest((None, None)) == ""


def test_a_digest_is_the_same_in_another_process_and_in_years_to_come() -> None:
    code = (
        "from moondream_beam.transforms.core.kept.values import kept_digest as d; "
        "print(d(('a\\u00e9', 1, {'b': [None, 2.5], 'a': b'x'})))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert found == kept_digest(("a\u00e9", 1, {"a": b"x", "b": [None, 2.5]}))
    assert found == "84ec73f85c67deb7cd925235c5dab03fe7f68887907372566cc5098ef97b9d49"


def test_what_no_arrow_type_holds_is_refused_with_the_cure() -> None:
    with pytest.raises(TypeError, match="object.*convert it to text or a number"):
        kept_digest((object(),))
