"""Read CSV, JSON Lines and Parquet row by row, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from ..io.column_types import as_text
from ..io.files import open_file
from ..io.object_stores.base import Stores
from ..io.parquet import ROWS_PER_BATCH, batch_rows, open_parquet, parquet_schema
from ..io.retry import FetchError
from ..io.uris import check_utf8, is_utf8
from .json_types import json_schema

CSV, JSON_LINES, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
KINDS = CSV + JSON_LINES + PARQUET
# Of one line of JSON, or one value of CSV. A longer one means that the file has no line ends, or embeds an image.
MAX_LINE_BYTES = 8 << 20


class TableRow(NamedTuple):
    """The values of a row by column; if the row is broken, none, and a ``problem``.

    ``number`` is the line where the row begins, in Parquet the row; both count from 1. ``kept`` are the values of the
    kept columns in their stored types.
    """

    number: int
    values: dict[str, Any]
    problem: str = ""
    kept: tuple[Any, ...] = ()


def kind_of(path: str) -> str:
    """Return the extension of a manifest in lower case, such as ``.csv`` for ``A.CSV.gz``.

    Raises:
        ValueError: if the extension is not in ``KINDS``, or the file is compressed Parquet.
    """
    stem = path[:-3] if path.lower().endswith(".gz") else path
    kind = posixpath.splitext(stem)[1].lower()
    if kind not in KINDS or (kind in PARQUET and stem != path):
        raise ValueError(f"manifest {path}: its name ends with none of {', '.join(KINDS)}: rename or convert it")
    return kind


def is_table(path: str) -> bool:
    """Return whether a name ends like that of a manifest."""
    try:
        return bool(kind_of(path))
    except ValueError:
        return False


def read_rows(path: str, columns: Sequence[str], kept: Mapping[str, pa.DataType] | None = None) -> Iterator[TableRow]:
    """Yield every row of a manifest. CSV and JSON rows have all columns, Parquet rows those in ``columns``.

    If the content breaks off, one more row with a ``problem`` comes last.

    Args:
        kept: the columns to keep, with their stored types.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """
    number = 0
    try:
        with open_file(path) as file:
            for row in _rows(path, file, columns, kept or {}):
                number = row.number
                yield row
    except (EOFError, zlib.error, pa.ArrowInvalid, OSError) as error:
        if not _is_damage(error):
            raise
        yield TableRow(number + 1, {}, f"the file is broken from here on: {error}; replace it")


def schema_of(path: str, stores: Stores | None = None, max_lines: int | None = None) -> pa.Schema:
    """Return the columns of a manifest with their types.

    All columns of CSV are text. JSON Lines are read to their end, or ``max_lines`` far; see ``json_schema``. Of
    Parquet, only the footer is read; see ``parquet_schema``.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """
    kind = kind_of(path)
    with open_file(path, stores) as file:
        if kind in PARQUET:
            return parquet_schema(open_parquet(path, file))
        if kind in CSV:
            with _text(file) as text:
                return pa.schema([(name, pa.string()) for name in _header(path, _csv(text, kind))])
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
    if stored is None or (stored != value and value == value):
        shown = str(value)[:50]
        raise ValueError(
            f"column {field.name}: {shown!r} does not fit {field.type}, in which rows store it: correct it"
        )
    return stored


def _rows(path: str, file: Any, columns: Sequence[str], kept: Mapping[str, pa.DataType]) -> Iterator[TableRow]:
    kind = kind_of(path)
    if kind in PARQUET:
        yield from _parquet_rows(path, file, columns, kept)
    elif kind in CSV:
        with _text(file) as text:
            yield from _with_kept(_csv_rows(path, _csv(text, kind)), kept)
    else:
        yield from _with_kept(_json_rows(file), kept)


def _with_kept(rows: Iterable[TableRow], kept: Mapping[str, pa.DataType]) -> Iterator[TableRow]:
    """Yield rows of CSV or JSON with the values of their kept columns, or with a problem if one does not fit."""
    fields = [pa.field(name, kind) for name, kind in kept.items()]
    for row in rows:
        try:
            yield row._replace(kept=tuple(convert(row.values.get(field.name), field) for field in fields))
        except ValueError as error:
            yield row._replace(problem=row.problem or str(error))


def _undamaged(rows: Iterator[TableRow]) -> Iterator[TableRow]:
    """Yield rows up to damaged content, if there is any."""
    try:
        yield from rows
    except (EOFError, zlib.error, OSError) as error:
        if not _is_damage(error):
            raise


def _is_damage(error: Exception) -> bool:
    """Return whether an error means damaged content.

    An OSError of the system has an errno. Those of gzip and Arrow have none: they mean damaged content.
    """
    return not (isinstance(error, FetchError) or getattr(error, "errno", None))


def _text(file: Any) -> io.TextIOWrapper:
    # Local file names may have bytes that are not UTF-8: surrogateescape keeps them.
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _csv(text: io.TextIOWrapper, kind: str) -> Any:
    csv.field_size_limit(MAX_LINE_BYTES)
    return csv.reader(text, delimiter="\t" if kind == ".tsv" else ",", strict=True)


def _header(path: str, reader: Any) -> list[str]:
    header: list[str] = next(reader, [])
    if not header or len(set(header)) < len(header):
        raise ValueError(f"manifest {path}: its first line must name its columns, each once")
    if not all(map(is_utf8, header)):
        raise ValueError(f"manifest {path}: its first line is no UTF-8: save the file as UTF-8")
    return header


def _csv_rows(path: str, reader: Any) -> Iterator[TableRow]:
    header = _header(path, reader)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield TableRow(number, {}, f"this is no CSV: {error}; correct the line")
            continue
        if fields is None:
            return
        if len(fields) == len(header):
            yield TableRow(number, dict(zip(header, fields, strict=True)))
        elif fields:
            yield TableRow(
                number, {}, f"the row has {len(fields)} fields, but the header has {len(header)}: correct the row"
            )


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


def _parquet_rows(path: str, file: Any, columns: Sequence[str], kept: Mapping[str, pa.DataType]) -> Iterator[TableRow]:
    table = open_parquet(path, file)
    present = [name for name in dict.fromkeys([*columns, *kept]) if name in table.schema_arrow.names]
    number = 0
    for batch in table.iter_batches(ROWS_PER_BATCH, columns=present):
        for row in batch_rows(batch, columns, kept):
            number += 1
            yield TableRow(number, row.values, row.problem, row.kept)
