"""Read CSV, JSON Lines and Parquet row by row, in bounded memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ..io.files import open_file
from ..io.parquet import ROWS_PER_BATCH, batch_rows, open_parquet
from ..io.retry import FetchError
from ..io.uris import check_utf8
from .lists.delimited import MAX_LINE_BYTES, DelimitedFile
from .lists.table_files import CSV, PARQUET, check_content, kind_of, partitions_of

# Lines of JSON from which the types of columns are derived.
NUM_SAMPLED_LINES = 1000


class TableRow(NamedTuple):
    """The values of a row by column; if the row is broken, none, and a ``problem``.

    ``number`` is the line where the row begins, in Parquet the row; both count from 1.
    """

    number: int
    values: dict[str, Any]
    problem: str = ""


def read_rows(path: str, columns: Sequence[str]) -> Iterator[TableRow]:
    """Yield every row of a manifest. CSV and JSON rows have all columns, Parquet rows those in ``columns``.

    Rows also have the columns of the partitions in ``path``, unless the file has a column of that name. If the content
    breaks off, one more row with a ``problem`` comes last.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """
    number = 0
    try:
        with open_file(path) as file:
            for row in _rows(path, file, columns):
                number = row.number
                yield row
    except (EOFError, zlib.error, pa.ArrowInvalid, OSError) as error:
        # An OSError of the system has an errno. Those of gzip and Arrow have none: they mean damaged content.
        if isinstance(error, FetchError) or getattr(error, "errno", None):
            raise
        yield TableRow(number + 1, {}, f"the file is broken from here on: {error}; replace it")


def schema_of(path: str) -> pa.Schema:
    """Return the columns of a manifest with their types, and those of its partitions, which are text, last.

    All columns of CSV are text. Columns and types of JSON Lines are derived from the first ``NUM_SAMPLED_LINES``.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """
    schema = _file_schema(path)
    added = [pa.field(name, pa.string()) for name in partitions_of(path) if name not in schema.names]
    return pa.schema([*schema, *added])


def _file_schema(path: str) -> pa.Schema:
    kind = kind_of(path)
    with open_file(path) as file:
        if kind in PARQUET:
            return open_parquet(path, file).schema_arrow
        check_content(path, file)
        if kind in CSV:
            with DelimitedFile(path, file, kind == ".tsv") as table:
                return pa.schema([(name, pa.string()) for name in table.header])
        rows = [row.values for row, _ in zip(_json_rows(file), range(NUM_SAMPLED_LINES), strict=False)]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, _type_of([row.get(name) for row in rows])) for name in names])


def convert(value: Any, field: pa.Field) -> Any:
    """Return ``value`` for a column of type ``field.type``: unchanged, but other values in a text column become JSON.

    Raises:
        ValueError: if the value does not fit the type, or is text that is not UTF-8.
    """
    if pa.types.is_string(field.type):
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return check_utf8(text, field.name)
    try:
        pa.scalar(value, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"column {field.name}: {str(value)[:50]!r} is no {field.type}: correct it") from error
    return value


def _rows(path: str, file: Any, columns: Sequence[str]) -> Iterator[TableRow]:
    kind = kind_of(path)
    if kind in PARQUET:
        yield from _parquet_rows(path, file, columns)
    elif kind in CSV:
        with DelimitedFile(path, file, kind == ".tsv") as table:
            yield from _with_partitions(path, _csv_rows(table))
    else:
        yield from _with_partitions(path, _json_rows(file))


def _with_partitions(path: str, rows: Iterator[TableRow]) -> Iterator[TableRow]:
    """Yield rows of CSV or JSON with the columns of the partitions that they lack."""
    if not (partitions := partitions_of(path)):
        yield from rows
        return
    for row in rows:
        yield row if row.problem else row._replace(values=partitions | row.values)


def _csv_rows(table: DelimitedFile) -> Iterator[TableRow]:
    for number, fields, problem in table.records():
        yield TableRow(number, {} if problem else dict(zip(table.header, fields, strict=True)), problem)


def _json_rows(file: Any) -> Iterator[TableRow]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        problem = ""
        if len(line) > MAX_LINE_BYTES:
            problem = f"the line has more than {MAX_LINE_BYTES >> 20} MiB: shorten it, or add line ends"
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
        elif not line.strip():
            continue
        try:
            values = {} if problem else json.loads(line)
        except (ValueError, RecursionError) as error:
            values, problem = {}, f"this is no JSON: {error}; correct the line"
        if not isinstance(values, dict):
            values, problem = {}, "this is no JSON object: write {...} on the line"
        yield TableRow(number, values, problem)


def _parquet_rows(path: str, file: Any, columns: Sequence[str]) -> Iterator[TableRow]:
    table = open_parquet(path, file)
    names = table.schema_arrow.names
    present = [name for name in columns if name in names]
    added = {name: value for name, value in partitions_of(path).items() if name in columns and name not in names}
    number = 0
    for batch in table.iter_batches(ROWS_PER_BATCH, columns=present):
        for name, value in added.items():
            batch = batch.append_column(name, pa.array([value] * len(batch), pa.string()))
        for values, problem in batch_rows(batch):
            number += 1
            yield TableRow(number, values, problem)


def _is_exact(value: int | float) -> bool:
    return isinstance(value, float) or abs(value) <= 2**53


# A column has the first type that all its values fit, or else text.
_TYPES: tuple[tuple[Callable[[Any], bool], pa.DataType], ...] = (
    (lambda value: isinstance(value, bool), pa.bool_()),
    (lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63, pa.int64()),
    (lambda value: isinstance(value, int | float) and not isinstance(value, bool) and _is_exact(value), pa.float64()),
)


def _type_of(values: Sequence[Any]) -> pa.DataType:
    there = [value for value in values if value is not None]
    for fits, kind in _TYPES:
        if there and all(map(fits, there)):
            return kind
    return pa.string()
