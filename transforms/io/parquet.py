"""Open Parquet and Arrow files lazily, and read their rows as Python values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from .column_types import fit_array, is_list
from .containers.arrow import ArrowFile
from .containers.location import ARROW
from .files import MIN_READ_BYTES
from .retry import FetchError

ROWS_PER_BATCH = 1024
# Types whose values Arrow reads as bare bytes, with their casts to text in the SQL of DuckDB. (Of UUID, pyarrow before
# 21 does so.)
CASTS = {
    "INTERVAL": "CAST({} AS VARCHAR)",
    "VARIANT": "CAST(CAST({} AS JSON) AS VARCHAR)",
    "GEOMETRY": "ST_AsText({})",
    "GEOGRAPHY": "ST_AsText({})",
    "UUID": "CAST({} AS VARCHAR)",
}
# Metadata of a column that holds one of these types: its name.
BYTES_OF = b"bytes_of"
# Metadata of a column that holds INT96: old timestamps, which can have nanoseconds.
INT96 = b"int96"
SPARK_SCHEMA = b"org.apache.spark.sql.parquet.row.metadata"


class ParquetRow(NamedTuple):
    """The Python values of a row by column, and the values of its kept columns in their stored types.

    ``problem`` says why a value could not be read, and both are empty then; else it is "".
    """

    values: dict[str, Any]
    kept: tuple[Any, ...] = ()
    problem: str = ""


def batch_rows(batch: pa.RecordBatch, columns: Sequence[str], kept: Mapping[str, pa.DataType]) -> Iterator[ParquetRow]:
    """Yield each row of a batch, with the values of ``columns`` and of the columns ``kept``, in their stored types.

    Columns that the batch lacks are left out of the values; a kept one is None. These values can't be read: text that
    is not UTF-8, a timestamp outside of the years 1 to 9999, and a kept value that its stored type can't hold.
    """
    try:
        present = [name for name in columns if name in batch.schema.names]
        values = batch.select(present).to_pylist()
        stored = [_stored_values(batch, name, kind) for name, kind in kept.items()]
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield ParquetRow({}, problem=f"a value can't be read: {error}; correct it in the file")
        else:
            for row in range(len(batch)):
                yield from batch_rows(batch.slice(row, 1), columns, kept)
        return
    for number, row in enumerate(values):
        yield ParquetRow(row, tuple(column[number] for column in stored))


def _stored_values(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> list[Any]:
    """Return the values of a kept column in the type ``kind``, or None for each row if the batch lacks the column.

    Raises:
        ValueError: if a value would change. The message shows the first value of the batch.
    """
    if name not in batch.schema.names:
        return [None] * len(batch)
    array = batch.column(name)
    try:
        fitted = fit_array(array, kind)
    except ValueError as error:
        value = str(fit_array(array[:1], pa.string())[0])[:50] if pa.types.is_temporal(array.type) else str(array[0])
        raise ValueError(
            f"column {name}: {value[:50]} does not fit {kind}, in which all rows are stored; to keep it, write the"
            " column as text in all manifests"
        ) from error
    values: list[Any] = fitted.to_pylist()
    return values


def open_table(path: str, file: Any) -> Any:
    """Return ``file``, which is open for reading, as a ``ParquetFile``, or as an ``ArrowFile`` if ``path`` ends so.

    Only the footer is read now; of an Arrow file, the headers of its record batches.

    Args:
        path: its name, also in error messages.

    Raises:
        FetchError: if an object store fails.
        ValueError: if ``file`` is not such a file or can't be read.
    """
    if path.lower().endswith(ARROW):
        return ArrowFile(path, file)
    try:
        # Spark and Impala write timestamps as INT96. In nanoseconds, years after 2262 would become years before 1800.
        return pq.ParquetFile(file, buffer_size=MIN_READ_BYTES, pre_buffer=False, coerce_int96_timestamp_unit="us")
    except FetchError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}; write it again, or give another file") from error


def table_schema(table: Any) -> pa.Schema:
    """Return the columns of an open ``ParquetFile`` or ``ArrowFile`` with their Arrow types. Only the footer is read.

    A column of type ENUM is text. A column that holds one of ``CASTS``, also inside lists and structs, has the metadata
    ``BYTES_OF`` with the name of that type. A column that holds INT96 has the metadata ``INT96``.
    """
    schema = table.schema_arrow
    if isinstance(table, ArrowFile):
        return schema
    for path, kind in _foreign_types(table):
        for number, field in enumerate(schema):
            # The path of a leaf is such as "a.list.element".
            if path != field.name and not path.startswith(f"{field.name}."):
                continue
            if kind == "ENUM":
                text = pa.string() if pa.types.is_binary(field.type) else field.type
                schema = schema.set(number, pa.field(field.name, text))
            elif kind == "INT96":
                schema = schema.set(number, field.with_metadata({INT96: kind}))
            elif kind != "UUID" or "arrow.uuid" not in str(field.type):
                schema = schema.set(number, field.with_metadata({BYTES_OF: kind}))
    return schema


def _foreign_types(table: Any) -> Iterator[tuple[str, str]]:
    """Yield the path and the type of each leaf whose type Arrow does not show."""
    for number in range(len(table.schema)):
        column = table.schema.column(number)
        if column.physical_type == "INT96":
            yield column.path, "INT96"
        # Such as "Geometry(crs=SRID:0)". All of these types are stored as bytes.
        if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
            kind = str(column.logical_type).partition("(")[0].upper()
            if kind in CASTS or kind == "ENUM":
                yield column.path, kind
    metadata = table.metadata.metadata or {}
    # GeoParquet: the type stands in the metadata of the file.
    yield from ((name, "GEOMETRY") for name in json.loads(metadata.get(b"geo", b"{}")).get("columns", {}))
    variants = [field.name for field in table.schema_arrow if _holds_variant(field.type)]
    if variants and ("(Variant" in str(table.schema) or b'"variant"' in metadata.get(SPARK_SCHEMA, b"")):
        yield from ((name, "VARIANT") for name in variants)


def _holds_variant(kind: pa.DataType) -> bool:
    if not pa.types.is_nested(kind):
        return False
    if is_list(kind):
        return _holds_variant(kind.value_type)
    if pa.types.is_map(kind):
        return _holds_variant(kind.item_type)
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: field.type for field in kind}
    return fields.get("metadata") == fields.get("value") == pa.binary() or any(map(_holds_variant, fields.values()))
