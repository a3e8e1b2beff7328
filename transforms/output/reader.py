"""Read the published files of an output."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ...models.hosted.payment.billing import Billing
from ..core.records import Failure
from ..core.row_schema import ANNOTATION_SCHEMA, kept_fields
from ..io.column_types import plain_type
from ..io.object_stores.file_systems import FileSystems
from ..io.uris import basename
from .files import glob_files
from .layout import DATA, ERRORS, kind_of, run_of_part, run_parts

FOOTER_THREADS = 16
# The messages of a broken list may all differ.
MAX_ERROR_KINDS = 10_000
_NUMBER = re.compile(r"\d+")


def published(output: str, names: str) -> list[str]:
    """Return the paths of all files in ``data/`` and ``errors/`` whose names match a glob."""
    return glob_files(*(FileSystems.join(output, kind, names) for kind in (DATA, ERRORS)))


def latest_uris(output: str) -> list[str]:
    """Return the URI of one row of the last file that has rows in ``data/``, and of one in ``errors/``, by name."""
    uris: list[str] = []
    for kind in (DATA, ERRORS):
        for path in sorted(glob_files(FileSystems.join(output, kind, run_parts("*"))), reverse=True):
            with FileSystems.open(path) as file:
                table = pq.ParquetFile(file)
                if table.metadata.num_rows:
                    uris.append(next(table.iter_batches(1, columns=["uri"]))["uri"][0].as_py())
                    break
    return uris


def read_failures(output: str, run: str) -> Iterator[Failure]:
    """Yield all failures that a run has published."""
    for path in glob_files(FileSystems.join(output, ERRORS, run_parts(run))):
        with FileSystems.open(path) as file:
            for batch in pq.ParquetFile(file).iter_batches():
                kept = kept_fields(batch.schema)
                for values in batch.to_pylist():
                    columns = tuple(values.pop(field.name) for field in kept)
                    hosted = values.pop("hosted")
                    failure = Failure(**values, hosted=Billing(**hosted) if hosted else None, columns=columns)
                    # The glob also matches runs whose names begin with the name of this one.
                    if failure.run == run:
                        yield failure


class ErrorRow(NamedTuple):
    """The columns of a row in ``errors/`` that ``count_errors`` reads."""

    uri: str
    filename: str
    message: str
    retryable: bool


def read_error_rows(output: str, run: str | None = None) -> Iterator[ErrorRow]:
    """Yield all rows in ``errors/``, or those of one run."""
    names = "*.parquet" if run is None else run_parts(run)
    for path in sorted(glob_files(FileSystems.join(output, ERRORS, names))):
        with FileSystems.open(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=[*ErrorRow._fields, "run"]):
                columns = [batch[name].to_pylist() for name in (*ErrorRow._fields, "run")]
                yield from (ErrorRow(*row) for *row, owner in zip(*columns, strict=True) if run in (None, owner))


def num_error_rows(output: str) -> int:
    """Return the number of rows in ``errors/``, from the footers of the files."""
    paths = glob_files(FileSystems.join(output, ERRORS, "*.parquet"))
    return sum(footer.rows for footer in read_footers(paths, read_footer))


class ErrorKind(NamedTuple):
    """Failures whose messages differ in numbers and in the name of the picture only.

    ``rows`` is how many there are, and ``retryable`` how many of them may succeed if they are asked again. ``message``
    and ``example`` are the message and the name of one of them.
    """

    rows: int
    message: str
    example: str
    retryable: int


def count_errors(failures: Iterable[Failure | ErrorRow]) -> list[ErrorKind]:
    """Return the kinds of failures, the most common first. After ``MAX_ERROR_KINDS`` kinds, new kinds are left out."""
    kinds: dict[str, ErrorKind] = {}
    for failure in failures:
        kind = failure.message
        for name in (failure.uri, failure.filename, basename(failure.uri)):
            kind = kind.replace(name, "") if name else kind
        kind = _NUMBER.sub("0", kind)
        if kind in kinds or len(kinds) < MAX_ERROR_KINDS:
            known = kinds.get(kind) or ErrorKind(0, failure.message, failure.filename, 0)
            kinds[kind] = known._replace(rows=known.rows + 1, retryable=known.retryable + failure.retryable)
    return sorted(kinds.values(), key=lambda error: (-error.rows, error.message))


class PartFooter(NamedTuple):
    """The footer of a published file.

    ``kind`` is ``data`` or ``errors``. ``run`` is empty if the name is not that of a part. ``first`` and ``last`` are
    the earliest and the latest ``created_at`` of the rows, or None if the file has no rows.
    """

    kind: str
    run: str
    rows: int
    first: datetime | None
    last: datetime | None


def read_footer(path: str) -> PartFooter:
    """Return kind, run, number of rows and times of one published Parquet file, from its footer and its path.

    Raises:
        Exception: if there is no such file, or it is not Parquet. The class depends on the file system.
    """
    with FileSystems.open(path) as file:
        metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [index for index in range(metadata.num_columns) if metadata.schema.column(index).path == "created_at"]
    statistics = [group.column(index).statistics for group in groups for index in columns]
    known = [each for each in statistics if each is not None and each.has_min_max]
    first = min((_time_of(each, each.min_raw, "min") for each in known), default=None)
    last = max((_time_of(each, each.max_raw, "max") for each in known), default=None)
    run = run_of_part(FileSystems.split(path)[1]) or ""
    return PartFooter(kind_of(path), run, metadata.num_rows, first, last)


def _time_of(statistics: Any, raw: int, bound: str) -> datetime:
    """Return a time in the statistics of a column, by its stored number or by the attribute ``bound``.

    For a time, the attribute imports pandas where pandas is installed, which takes 0.2 seconds.
    """
    if statistics.converted_type == "TIMESTAMP_MILLIS":
        return datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=raw)
    time: datetime = getattr(statistics, bound)
    return time


def read_footers(paths: Sequence[str], read: Callable[[str], PartFooter]) -> list[PartFooter]:
    """Return what ``read`` returns for each path, in the order of the paths.

    ``read`` is called in ``FOOTER_THREADS`` threads. The first exception is raised, and calls not yet begun are
    dropped.
    """
    pool = ThreadPoolExecutor(FOOTER_THREADS, thread_name_prefix="footers")
    try:
        return list(pool.map(read, paths))
    finally:
        pool.shutdown(cancel_futures=True)


def published_columns(output: str) -> dict[str, pa.DataType]:
    """Return the names and the types of the kept columns in the published rows of an output; {} if it has no rows."""
    there = _published_schema(output, DATA)
    return {field.name: field.type for field in there or () if field.name not in ANNOTATION_SCHEMA.names}


def check_schema(output: str, schema: pa.Schema) -> None:
    """Check that the published rows of an output have the columns of ``schema``, that of ``data/``.

    The rows in ``errors/`` must have the same kept columns. An empty output passes.

    Readers do not accept data files with different columns as one table. Types that differ in Arrow's encoding only,
    such as string and large_string, are the same in Parquet.

    Raises:
        ValueError: if the names, the order or the types of the columns differ.
    """
    _check_kept_errors(output, kept_fields(schema))
    there = _published_schema(output, DATA)
    if there is None:
        return
    if missing := [name for name in ANNOTATION_SCHEMA.names if name not in there.names]:
        writer = "another program" if "id" in missing else "an earlier version"
        raise ValueError(
            f"output {output}: its rows lack the column {missing[0]}, because {writer} wrote them. Choose another"
            " output."
        )
    if there.names != schema.names or list(map(plain_type, there.types)) != list(map(plain_type, schema.types)):
        kept = [f"{field.name} ({field.type})" for field in there if field.name not in ANNOTATION_SCHEMA.names]
        new = [f"{field.name} ({field.type})" for field in schema if field.name not in ANNOTATION_SCHEMA.names]
        raise ValueError(
            f"output {output}: its rows have the kept columns {', '.join(kept) or 'none'}. This run would add rows with"
            f" {', '.join(new) or 'none'}. Keep the same columns, in the same order and of the same types, or choose"
            " another output."
        )


def _check_kept_errors(output: str, kept: Sequence[pa.Field]) -> None:
    """Raise ValueError if the rows in ``errors/`` lack a kept column, because an earlier version wrote them."""
    there = _published_schema(output, ERRORS)
    if there is not None and (missing := [field.name for field in kept if field.name not in there.names]):
        folder = FileSystems.join(output, ERRORS)
        raise ValueError(
            f"output {output}: its rows in errors/ lack the kept column {missing[0]}, because an earlier version wrote"
            f" them. Delete the folder {folder}: this run then asks their requests again."
        )


def _published_schema(output: str, kind: str) -> pa.Schema | None:
    """Return the schema of one published file in ``data/`` or ``errors/``, or None if there is none.

    Raises:
        ValueError: if the file is not Parquet.
    """
    for path in glob_files(FileSystems.join(output, kind, "*.parquet"))[:1]:
        with FileSystems.open(path) as file:
            try:
                return pq.read_schema(file)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path}: {error}; move this file away, or choose another output") from error
    return None
