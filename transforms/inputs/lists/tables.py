"""Read CSV, JSON Lines, Parquet and Arrow row by row, in bounded memory."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from ...io.column_types import JsonNumber, as_text
from ...io.containers.location import COLUMNAR
from ...io.files import open_file
from ...io.object_stores.base import Stores
from ...io.parquet import ROWS_PER_BATCH, batch_rows, open_table, table_schema
from ...io.retry import FetchError
from ...io.uris import check_utf8
from .blocks.delimited import DelimitedFile
from .blocks.lines import MAX_LINE_BYTES
from .json_types import json_schema, parse_json
from .table_files import CSV, JSON_LINES, kind_of, partitions_of

T = TypeVar("T")

# The first bytes of files that have another format than their name says.
CONTENTS = (
    (b"PK\x03\x04", "a zip archive or a spreadsheet: unpack it, or save its sheet as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet: save its sheet as CSV in UTF-8"),
    (b"\x1f\x8b", "compressed by gzip: let its name end with .gz"),
    (b"PAR1", "Parquet: rename it to .parquet"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file: run git lfs pull"),
    (b"<!doctype html", "a web page: download the file itself"),
    (b"<html", "a web page: download the file itself"),
)


class TableRow(NamedTuple):
    """The values of a row by column; if the row is broken, none, and a ``problem``.

    ``number`` is the line where the row begins, in Parquet the row; both count from 1. ``kept`` are the values of the
    kept columns in their stored types.
    """

    number: int
    values: dict[str, Any]
    problem: str = ""
    kept: tuple[Any, ...] = ()


def read_rows(path: str, columns: Sequence[str], kept: Mapping[str, pa.DataType] | None = None) -> Iterator[TableRow]:
    """Yield every row of a manifest. CSV and JSON rows have all columns, Parquet rows those in ``columns``.

    Rows also have the columns of the partitions in ``path``, unless the file has a column of that name. If the content
    breaks off, one more row with a ``problem`` comes last.

    Args:
        kept: the columns to keep, with their stored types.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """

    def read() -> Iterator[TableRow]:
        with open_file(path) as file:
            yield from table_rows(path, file, columns, kept or {})

    return until_damage(read(), lambda row: row.number)


def until_damage(rows: Iterable[T], number_of: Callable[[T], int]) -> Iterator[T | TableRow]:
    """Yield ``rows``. If they end with damaged content, yield one more row with that as its problem.

    Args:
        number_of: returns the number of the last row in an element.
    """
    number = 0
    try:
        for row in rows:
            number = number_of(row)
            yield row
    except (EOFError, zlib.error, pa.ArrowInvalid, OSError) as error:
        if not is_damage(error):
            raise
        yield TableRow(number + 1, {}, f"the file is broken from here on: {error}; replace it")


def schema_of(path: str, stores: Stores | None = None, max_lines: int | None = None) -> pa.Schema:
    """Return the columns of a manifest with their types, and those of its partitions, which are text, last.

    All columns of CSV are text. JSON Lines are read to their end, or ``max_lines`` far; see ``json_schema``. Of
    Parquet, only the footer is read; see ``table_schema``.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """
    schema = _file_schema(path, stores, max_lines)
    added = [pa.field(name, pa.string()) for name in partitions_of(path) if name not in schema.names]
    return pa.schema([*schema, *added])


def _check_content(path: str, file: Any) -> None:
    """Check the first bytes of an open text or JSON file, which stays at its start.

    Raises:
        OSError: if the file can't be read.
        ValueError: if the bytes are those of a format in ``CONTENTS``, or of one JSON list of objects.
    """
    head = file.read(256)
    file.seek(0)
    for start, content in CONTENTS:
        if head.lower().startswith(start.lower()):
            raise ValueError(f"manifest {path}: its content is {content}")
    if kind_of(path) in JSON_LINES and re.match(rb"(?:\xef\xbb\xbf)?\s*\[\s*(?:\{|$)", head):
        raise ValueError(
            f"manifest {path}: its content is one JSON list: write one object on each line, without a list around them"
        )


def _file_schema(path: str, stores: Stores | None, max_lines: int | None) -> pa.Schema:
    kind = kind_of(path)
    with open_file(path, stores) as file:
        if kind in COLUMNAR:
            return table_schema(open_table(path, file))
        _check_content(path, file)
        if kind in CSV:
            with DelimitedFile(path, file, kind == ".tsv") as table:
                return pa.schema([(name, pa.string()) for name in table.header])
        return json_schema(row.values for row in islice(_undamaged(_json_rows(file)), max_lines))


def convert(value: Any, field: pa.Field) -> Any:
    """Return a value of CSV or JSON for a column of type ``field.type``: in a text column, other values become JSON.

    Raises:
        ValueError: if the type can't hold the value without a change, or the value is text that is not UTF-8.
    """
    if value is None:
        return None
    if pa.types.is_string(field.type):
        return check_utf8(as_text(value), field.name)
    try:
        stored = pa.scalar(value, field.type).as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        stored = None
    # Arrow stores 0.97 as the integer 0. NaN is the only value that differs from itself.
    if stored is None or (stored != value and value == value) or (isinstance(value, JsonNumber) and value.is_cut):
        shown = str(value)[:50]
        raise ValueError(
            f"column {field.name}: {shown!r} does not fit {field.type}, in which rows store it: correct it"
        )
    return stored


def table_rows(path: str, file: Any, columns: Sequence[str], kept: Mapping[str, pa.DataType]) -> Iterator[TableRow]:
    """Yield the rows of an open file, as ``read_rows`` does. Damaged content raises an error."""
    kind = kind_of(path)
    if kind in COLUMNAR:
        yield from _columnar_rows(path, file, columns, kept)
    elif kind in CSV:
        with DelimitedFile(path, file, kind == ".tsv") as table:
            yield from with_kept(_with_partitions(path, _csv_rows(table)), kept)
    else:
        yield from with_kept(_with_partitions(path, _json_rows(file)), kept)


def with_kept(rows: Iterable[TableRow], kept: Mapping[str, pa.DataType]) -> Iterator[TableRow]:
    """Yield rows of CSV or JSON with the values of their kept columns, or with a problem if one does not fit."""
    if not kept:
        yield from rows
        return
    fields = [pa.field(name, kind) for name, kind in kept.items()]
    for row in rows:
        values: list[Any] = []
        problem = row.problem
        for field in fields:
            try:
                values.append(convert(row.values.get(field.name), field))
            except ValueError as error:
                values.append(None)
                problem = problem or str(error)
        yield row._replace(kept=tuple(values), problem=problem)


def _undamaged(rows: Iterator[TableRow]) -> Iterator[TableRow]:
    """Yield rows up to damaged content, if there is any."""
    try:
        yield from rows
    except (EOFError, zlib.error, OSError) as error:
        if not is_damage(error):
            raise


def is_damage(error: Exception) -> bool:
    """Return whether an error means damaged content.

    An OSError of the system has an errno. Those of gzip and Arrow have none: they mean damaged content.
    """
    return not (isinstance(error, FetchError) or getattr(error, "errno", None))


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
            values = {} if problem else parse_json(line)
        except (ValueError, RecursionError) as error:
            values, problem = {}, f"this is no JSON: {error}; correct the line"
        if not isinstance(values, dict):
            values, problem = {}, "this is no JSON object: write {...} on the line"
        yield TableRow(number, values, problem)


def _columnar_rows(path: str, file: Any, columns: Sequence[str], kept: Mapping[str, pa.DataType]) -> Iterator[TableRow]:
    table = open_table(path, file)
    names, wanted = table.schema_arrow.names, dict.fromkeys([*columns, *kept])
    present = [name for name in wanted if name in names]
    added = {name: value for name, value in partitions_of(path).items() if name in wanted and name not in names}
    number = 0
    for batch in table.iter_batches(ROWS_PER_BATCH, columns=present):
        for name, value in added.items():
            batch = batch.append_column(name, pa.array([value] * len(batch), pa.string()))
        for row in batch_rows(batch, columns, kept):
            number += 1
            yield TableRow(number, row.values, row.problem, row.kept)
