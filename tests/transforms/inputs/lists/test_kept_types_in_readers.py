"""Kept columns of every type have the same values in datasets, DuckDB, polars, pandas and Spark."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.beam_runs import collect
from support.spark.session import spark_session

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.inputs.manifest import ReadManifests
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns

pytestmark = pytest.mark.slow

MOMENT = dt.datetime(2026, 1, 2, 3, 4, 5, 678901)
DAY, SECOND = MOMENT.date(), MOMENT.replace(microsecond=0)
BERLIN = dt.timezone(dt.timedelta(hours=1))
IDENTITY = uuid.UUID("3c558396-6337-4fa7-8b68-bfac8e3d99a8")
UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([IDENTITY.bytes], pa.binary(16)))
FEATURES = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array([[1.5, 2.5]]))

# By column: the array in the manifest, and the value that each reader of the output returns.
KEPT: dict[str, tuple[pa.Array, Any]] = {
    "nothing": (pa.nulls(1), None),
    "flag": (pa.array([True]), True),
    **{f"i{bits}": (pa.array([-(2 ** (bits - 1))], f"int{bits}"), -(2 ** (bits - 1))) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (pa.array([2**bits - 1], f"uint{bits}"), 2**bits - 1) for bits in (8, 16, 32, 64)},
    "half": (pa.array([0.5], pa.float16()), 0.5),
    "single": (pa.array([0.25], pa.float32()), 0.25),
    "double": (pa.array([0.97]), 0.97),
    "decimal32": (pa.array([Decimal("1.25")], pa.decimal32(5, 2)), Decimal("1.25")),
    "decimal64": (pa.array([Decimal("1.25")], pa.decimal64(12, 2)), Decimal("1.25")),
    "decimal128": (pa.array([Decimal(10) ** 36], pa.decimal128(38, 1)), Decimal(10) ** 36),
    "narrow256": (pa.array([Decimal("1.25")], pa.decimal256(20, 2)), Decimal("1.25")),
    "wide256": (pa.array([Decimal(10) ** 40], pa.decimal256(50, 1)), f"1{'0' * 40}.0"),
    "text": (pa.array(["a"]), "a"),
    "large_text": (pa.array(["a"], pa.large_string()), "a"),
    "text_view": (pa.array(["a"], pa.string_view()), "a"),
    "category": (pa.array(["a"]).dictionary_encode(), "a"),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), '{"a": 1}'),
    "uuid": (UUIDS, str(IDENTITY)),
    "blob": (pa.array([b"\x00\xff"]), b"\x00\xff"),
    "large_blob": (pa.array([b"\x00\xff"], pa.large_binary()), b"\x00\xff"),
    "blob_view": (pa.array([b"\x00\xff"], pa.binary_view()), b"\x00\xff"),
    "fixed_blob": (pa.array([b"\x00\xff"], pa.binary(2)), b"\x00\xff"),
    "day": (pa.array([DAY], pa.date32()), DAY),
    "day64": (pa.array([DAY], pa.date64()), DAY),
    "clock": (pa.array([dt.time(12, 30)], pa.time32("s")), "12:30:00"),
    "clock_us": (pa.array([dt.time(12, 30, 0, 5)], pa.time64("us")), "12:30:00.000005"),
    "clock_ns": (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
    "lasting": (pa.array([1500], pa.duration("ms")), 1500),
    "second": (pa.array([SECOND], pa.timestamp("s")), SECOND),
    "milli": (pa.array([SECOND], pa.timestamp("ms")), SECOND),
    "micro": (pa.array([MOMENT], pa.timestamp("us")), MOMENT),
    "nano": (pa.array([MOMENT], pa.timestamp("ns")), MOMENT),
    "zoned": (pa.array([MOMENT], pa.timestamp("us", "UTC")), MOMENT.replace(tzinfo=dt.timezone.utc)),
    "berlin": (
        pa.array([MOMENT.replace(tzinfo=BERLIN)], pa.timestamp("ns", "Europe/Berlin")),
        MOMENT.replace(tzinfo=BERLIN),
    ),
    "numbers": (pa.array([[1, 2]]), [1, 2]),
    "large_list": (pa.array([[1]], pa.large_list(pa.int8())), [1]),
    "list_view": (pa.array([["a"]], pa.list_view(pa.string())), ["a"]),
    "pair": (pa.array([[1.5, 2.5]], pa.list_(pa.float32(), 2)), [1.5, 2.5]),
    "tensor": (FEATURES, [1.5, 2.5]),
    "struct": (pa.array([{"a": 1, "b": ["x"]}]), {"a": 1, "b": ["x"]}),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())), [{"key": "k", "value": 1}]),
    "uuids": (pa.ListArray.from_arrays([0, 1], UUIDS), [str(IDENTITY)]),
    "deep": (
        pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1], pa.array([MOMENT], pa.timestamp("ns")))], ["at"]),
        {"at": [MOMENT]},
    ),
    "uuid_by_name": (
        pa.MapArray.from_arrays([0, 1], ["k"], UUIDS),
        [{"key": "k", "value": str(IDENTITY)}],
    ),
}


def run(manifest: Path, out: Path) -> None:
    """Annotate the pictures of a manifest with all its columns kept."""
    keep = [name for name in pq.read_schema(manifest).names if name != "url"]
    columns = check_columns([str(manifest)], Columns("url", tasks=(Caption(),)), keep)
    job = AnnotateToParquet(columns.tasks, Echo(), str(out), columns=columns.kept)
    (record,) = collect(lambda pipeline: pipeline | ReadManifests([str(manifest)], columns) | job)
    assert record["balanced"] and record["counts"]["annotations"] == record["counts"]["pending"] > 0


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output whose one row keeps all columns of KEPT."""
    folder = tmp_path_factory.mktemp("kept")
    Image.new("RGB", (4, 3)).save(folder / "a.png")
    table = {"url": pa.array(["a.png"]), **{name: array for name, (array, _) in KEPT.items()}}
    pq.write_table(pa.table(table), folder / "list.parquet")
    run(folder / "list.parquet", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a session of Spark."""
    with spark_session(tmp_path_factory.mktemp("spark")) as session:
        yield session


def plain(value: Any) -> Any:
    """Return a value of a reader as the plain Python value that it stands for."""
    if isinstance(value, np.ndarray | list | pl.Series):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return bytes(value) if isinstance(value, bytearray) else value


def by_datasets(out: Path) -> dict[str, Any]:
    (row,) = datasets.load_dataset(str(out), cache_dir=str(out.parent / "cache"))["train"]
    return dict(row)


def by_duckdb(out: Path) -> dict[str, Any]:
    with duckdb.connect() as database:
        found = database.execute(f"FROM '{out}/data/*.parquet'")
        return dict(zip([column[0] for column in found.description], found.fetchall()[0], strict=True))


def by_polars(out: Path) -> dict[str, Any]:
    (row,) = pl.read_parquet(f"{out}/data/*.parquet").to_dicts()
    return row


def by_pandas(out: Path) -> dict[str, Any]:
    return {name: column[0] for name, column in pd.read_parquet(out / "data").items()}


@pytest.mark.parametrize("read", [by_datasets, by_duckdb, by_polars, by_pandas])
def test_readers_return_the_values_of_the_manifest(out: Path, read: Callable[[Path], dict[str, Any]]) -> None:
    row = read(out)
    assert {name: plain(row[name]) for name in KEPT} == {name: value for name, (_, value) in KEPT.items()}


def test_spark_returns_the_values_of_the_manifest(out: Path, spark: Any) -> None:
    (row,) = spark.read.parquet(f"{out}/data").collect()
    values = {name: plain(value) for name, value in row.asDict(recursive=True).items()}
    for name in ("zoned", "berlin"):
        # Spark returns an instant as local time without a time zone.
        values[name] = values[name].astimezone()
    assert {name: values[name] for name in KEPT} == {name: value for name, (_, value) in KEPT.items()}
