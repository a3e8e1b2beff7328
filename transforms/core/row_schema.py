"""The Arrow schemas of rows, and tables of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ...models.tasks import Box, Spot
from ..io.column_types import plain_type, stored_type, without_nulls
from ..io.uris import escape_non_utf8
from .records import RowTimings

MILLISECONDS = pa.float32()


def _struct(names: tuple[str, ...], kind: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(name, kind, nullable=False) for name in names])


def _required(**fields: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in fields.items()]


HOSTED = pa.field(
    "hosted",
    pa.struct(
        [
            *_required(job=pa.string(), units=pa.float64()),
            pa.field("usd", pa.float64()),
            *_required(estimated=pa.bool_()),
            pa.field("response", pa.string()),
        ]
    ),
)
BYTE_RANGE = (pa.field("byte_offset", pa.int64()), pa.field("byte_size", pa.int64()))
CREATED_AT = pa.timestamp("ms", tz="UTC")

ANNOTATION_SCHEMA = pa.schema(
    [
        *_required(id=pa.string(), key=pa.string(), filename=pa.string(), uri=pa.string(), sha256=pa.string()),
        *_required(width=pa.int32(), height=pa.int32(), task=pa.string(), prompt=pa.string()),
        pa.field("caption", pa.string()),
        pa.field("objects", pa.list_(_struct(Box._fields, pa.float32()))),
        pa.field("points", pa.list_(_struct(Spot._fields, pa.float32()))),
        *_required(finish_reason=pa.string(), input_tokens=pa.int32(), output_tokens=pa.int32()),
        *_required(timings=_struct(RowTimings._fields, MILLISECONDS)),
        *_required(backend=pa.string(), model=pa.string(), revision=pa.string(), run=pa.string()),
        *_required(created_at=CREATED_AT),
        HOSTED,
        *BYTE_RANGE,
        pa.field("reasoning", pa.string()),
    ]
)

FAILURE_SCHEMA = pa.schema(
    [
        *_required(id=pa.string(), key=pa.string(), filename=pa.string(), uri=pa.string()),
        *_required(task=pa.string(), prompt=pa.string(), stage=pa.string(), error=pa.string(), message=pa.string()),
        *_required(retryable=pa.bool_(), attempts=pa.int32(), backend=pa.string(), run=pa.string()),
        *_required(created_at=CREATED_AT),
        HOSTED,
        *BYTE_RANGE,
    ]
)


# A kept column is in both schemas, so it has no name of either.
OWN_COLUMNS = tuple(dict.fromkeys([*ANNOTATION_SCHEMA.names, *FAILURE_SCHEMA.names]))


def annotation_schema(columns: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of ``data/`` with ``columns`` of a manifest at its end.

    Raises:
        ValueError: if two columns have the same name, in any case, or if readers differ on the type of a column.
    """
    used = {name.casefold() for name in OWN_COLUMNS}
    for column in columns:
        if column.name.casefold() in used:
            raise ValueError(
                f"column {column.name} can't be kept: the rows have a column of this name, in this or another case;"
                " choose another name for it"
            )
        used.add(column.name.casefold())
        stored = without_nulls(stored_type(column.type))
        if stored != plain_type(column.type):
            raise ValueError(f"column {column.name} can't be kept as {column.type}: convert it to {stored}")
    return pa.schema([*ANNOTATION_SCHEMA, *columns])


def failure_schema(columns: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of ``errors/`` with ``columns`` of a manifest at its end.

    These columns may be null, because a broken row of a manifest has no values.
    """
    return pa.schema([*FAILURE_SCHEMA, *(column.with_nullable(True) for column in columns)])


def kept_fields(schema: pa.Schema) -> list[pa.Field]:
    """Return the columns of a manifest at the end of a schema that ``annotation_schema`` or ``failure_schema`` made."""
    return list(schema)[_num_own(schema) :]


def _num_own(schema: pa.Schema) -> int:
    own = next(own for own in (ANNOTATION_SCHEMA, FAILURE_SCHEMA) if schema.names[: len(own)] == own.names)
    return len(own)


def to_table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    """Return rows, all Annotations or all Failures, as an Arrow table with this schema."""
    if rows:
        no_columns = (None,) * (len(schema) - _num_own(schema))
        *own, kept = zip(*rows, strict=True)
        columns = [*own, *zip(*(values or no_columns for values in kept), strict=True)]
    else:
        columns = [()] * len(schema)
    arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(column, kind)
    except UnicodeEncodeError:
        return pa.array([text if text is None else escape_non_utf8(text) for text in column])
