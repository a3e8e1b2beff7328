"""Manifests as rows: CSV, JSON Lines and Parquet, a row at a time, and each with its number."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ..io.files import open_file
from ..io.parquet import ROWS_PER_BATCH, batch_rows, open_parquet
from ..io.retry import FetchError
from ..io.uris import check_utf8, is_utf8

CSV, JSON_LINES, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
KINDS = CSV + JSON_LINES + PARQUET
# Bytes of one line, or of one value between commas: longer ones are a file without an end of line, or a picture.
MAX_LINE_BYTES = 8 << 20
# Lines of JSON by which a column's type is told.
LINES_LOOKED_AT = 1000


class TableRow(NamedTuple):
    """Values by column, at a line (Parquet: a row), counted from 1; or what is wrong with it."""

    number: int
    values: dict[str, Any]
    problem: str = ""


def kind_of(path: str) -> str:
    """The extension that says how a manifest is to be read; a ``.gz`` behind it is passed over.

    Raises:
        ValueError: it is none of those that can be read.
    """
    stem = path[:-3] if path.lower().endswith(".gz") else path
    kind = posixpath.splitext(stem)[1].lower()
    if kind not in KINDS or (kind in PARQUET and stem != path):
        raise ValueError(f"manifest {path}: its name ends with none of {', '.join(KINDS)}")
    return kind


def is_table(path: str) -> bool:
    """Whether a name is that of a manifest."""
    try:
        return bool(kind_of(path))
    except ValueError:
        return False


def read_rows(path: str, columns: Sequence[str]) -> Iterator[TableRow]:
    """Every row of a manifest, in bounded memory; of Parquet these columns only. Where the file breaks off, that is one
    more row with a problem.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file.
    """
    number = 0
    try:
        with open_file(path) as file:
            for row in _rows(path, file, columns):
                number = row.number
                yield row
    except (EOFError, zlib.error, pa.ArrowInvalid, OSError) as error:
        # The system's have a number. Those of gzip and Arrow have none: what is there is damaged.
        if isinstance(error, FetchError) or getattr(error, "errno", None):
            raise
        yield TableRow(number + 1, {}, f"the file is broken from here on: {error}")


def schema_of(path: str) -> pa.Schema:
    """The columns of a manifest. Those of CSV are text; those of JSON Lines are what its first lines hold.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file, or has no header.
    """
    kind = kind_of(path)
    with open_file(path) as file:
        if kind in PARQUET:
            return open_parquet(path, file).schema_arrow
        if kind in CSV:
            with _text(file) as text:
                return pa.schema([(name, pa.string()) for name in _header(path, _csv(text, kind))])
        rows = [row.values for row, _ in zip(_json_rows(file), range(LINES_LOOKED_AT), strict=False)]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.schema([(name, _type_of([row.get(name) for row in rows])) for name in names])


def convert(value: Any, field: pa.Field) -> Any:
    """A value that goes into a column of this type: as it is, or as text where the column is text.

    Raises:
        ValueError: it does not go there.
    """
    if pa.types.is_string(field.type):
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return check_utf8(text, field.name)
    try:
        pa.scalar(value, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"column {field.name}: {str(value)[:50]!r} is no {field.type}") from error
    return value


def _rows(path: str, file: Any, columns: Sequence[str]) -> Iterator[TableRow]:
    kind = kind_of(path)
    if kind in PARQUET:
        yield from _parquet_rows(path, file, columns)
    elif kind in CSV:
        with _text(file) as text:
            yield from _csv_rows(path, _csv(text, kind))
    else:
        yield from _json_rows(file)


def _text(file: Any) -> io.TextIOWrapper:
    # Names of local files may be no UTF-8: they come out as they went in.
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _csv(text: io.TextIOWrapper, kind: str) -> Any:
    csv.field_size_limit(MAX_LINE_BYTES)
    return csv.reader(text, delimiter="\t" if kind == ".tsv" else ",", strict=True)


def _header(path: str, reader: Any) -> list[str]:
    header: list[str] = next(reader, [])
    if not header or len(set(header)) < len(header):
        raise ValueError(f"manifest {path}: its first line must name its columns, each once")
    if not all(map(is_utf8, header)):
        raise ValueError(f"manifest {path}: its first line is no UTF-8; save it as UTF-8")
    return header


def _csv_rows(path: str, reader: Any) -> Iterator[TableRow]:
    header = _header(path, reader)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield TableRow(number, {}, f"this is no CSV: {error}")
            continue
        if fields is None:
            return
        if len(fields) == len(header):
            yield TableRow(number, dict(zip(header, fields, strict=True)))
        elif fields:
            yield TableRow(number, {}, f"{len(fields)} fields, where the header has {len(header)}")


def _json_rows(file: Any) -> Iterator[TableRow]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        problem = ""
        if len(line) > MAX_LINE_BYTES:
            problem = f"the line has more than {MAX_LINE_BYTES >> 20} MiB"
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
        elif not line.strip():
            continue
        try:
            values = {} if problem else json.loads(line)
        except (ValueError, RecursionError) as error:
            values, problem = {}, f"this is no JSON: {error}"
        if not isinstance(values, dict):
            values, problem = {}, "this is no JSON object"
        yield TableRow(number, values, problem)


def _parquet_rows(path: str, file: Any, columns: Sequence[str]) -> Iterator[TableRow]:
    table = open_parquet(path, file)
    present = [name for name in columns if name in table.schema_arrow.names]
    number = 0
    for batch in table.iter_batches(ROWS_PER_BATCH, columns=present):
        for values, problem in batch_rows(batch):
            number += 1
            yield TableRow(number, values, problem)


def _is_exact(value: int | float) -> bool:
    return isinstance(value, float) or abs(value) <= 2**53


# The first that all values fit; text takes what is left.
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
