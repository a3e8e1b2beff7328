"""Spark reads the rows of an output as Arrow does: types, values, instants in any time zone, and names in any case."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.outputs import publish
from support.data.rows import NOW, annotation

from moondream_beam.models.tasks import Box, Spot

KEPT = (
    pa.field("Price", pa.decimal128(10, 2)),
    pa.field("day", pa.date32()),
    pa.field("seen", pa.timestamp("us", "America/New_York")),
    pa.field("local", pa.timestamp("ms")),
    pa.field("tags", pa.list_(pa.string())),
    pa.field("meta", pa.struct([("a", pa.int64()), ("b", pa.bool_())])),
)
VALUES = (
    Decimal("12.50"),
    date(1969, 2, 28),
    datetime(2026, 11, 29, 1, 2, 3, 456789, timezone(timedelta(hours=-5))),
    datetime(2026, 3, 8, 2, 30),
    ["x", None],
    {"a": 2**60, "b": None},
)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output with a row of each task. The kept columns of the last row are null."""
    rows = [
        annotation(id="a", columns=VALUES),
        annotation(id="b", task="detect", caption=None, objects=(Box(0.1, 0.2, 0.3, 0.4),), columns=VALUES),
        annotation(id="c", task="detect", caption=None, objects=(), columns=VALUES),
        annotation(id="d", task="point", caption=None, points=(Spot(0.5, 0.25),), columns=(None,) * len(KEPT)),
    ]
    publish(tmp_path / "out", rows, KEPT)
    return tmp_path / "out" / "data"


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone of this process, which PySpark converts instants to."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.slow
@pytest.mark.spark
def test_spark_reads_the_values_that_arrow_reads(spark: Any, output: Path, zone: None) -> None:
    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    frame = spark.read.parquet(str(output))
    found = [row.asDict(recursive=True) for row in frame.orderBy("id").collect()]
    for row in found:
        for name in ("created_at", "seen"):
            row[name] = row[name] and row[name].astimezone(timezone.utc)
    expected = pq.read_table(output).sort_by("id").to_pylist()
    assert found == expected
    assert dict(frame.dtypes)["local"] == "timestamp_ntz"
    assert {row["created_at"] for row in expected} == {NOW}
    assert frame.select("PRICE", "Created_At", "meta.A").where("ID = 'a'").collect()[0][2] == 2**60


def test_polars_and_duckdb_read_the_same_rows(output: Path) -> None:
    expected = pq.read_table(output).sort_by("id").to_pylist()
    assert polars.read_parquet(output).sort("id").to_dicts() == expected
    found = duckdb.sql(f"FROM '{output}/*.parquet' ORDER BY id").to_arrow_table().to_pylist()
    assert found == expected
    assert duckdb.sql(f"SELECT price, meta.A FROM '{output}/*.parquet' WHERE ID = 'a'").fetchall() == [
        (Decimal("12.50"), 2**60)
    ]
