"""Read the published files of an output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from apache_beam.io.aws.s3io import S3IO
from apache_beam.io.filesystems import FileSystems

from ...models.billing import Billing
from ..core.records import Failure
from ..io.uris import basename, scheme_of
from .files import glob_files
from .layout import DATA, ERRORS, kind_of, run_of_part, run_parts

FOOTER_THREADS = 16
# The messages of a broken list may all differ.
MAX_ERROR_KINDS = 10_000


class Reader:
    """Opens files of an output for reading. Threads may share a reader.

    For S3 each thread has one client. Beam would make a client for each file, which takes 0.2 seconds.
    """

    def __init__(self) -> None:
        self._clients = threading.local()

    def open(self, path: str) -> Any:
        """Open a file for reading. The result is a context manager that closes the file."""
        if scheme_of(path) != "s3":
            return FileSystems.open(path, compression_type="uncompressed")
        if not hasattr(self._clients, "s3"):
            # Beam opens files with the same options.
            self._clients.s3 = S3IO(options=getattr(FileSystems.get_filesystem(path), "_options"))  # noqa: B009
        return self._clients.s3.open(path)


def published(output: str, names: str) -> list[str]:
    """Return the paths of all files in ``data/`` and ``errors/`` whose names match a glob."""
    return glob_files(*(FileSystems.join(output, kind, names) for kind in (DATA, ERRORS)))


def latest_uris(output: str) -> list[str]:
    """Return the URI of one row of the last file that has rows in ``data/``, and of one in ``errors/``, by name."""
    uris: list[str] = []
    for kind in (DATA, ERRORS):
        for path in sorted(glob_files(FileSystems.join(output, kind, run_parts("*"))), reverse=True):
            with FileSystems.open(path, compression_type="uncompressed") as file:
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
                for values in batch.to_pylist():
                    hosted = values.pop("hosted")
                    failure = Failure(**values, hosted=Billing(**hosted) if hosted else None)
                    # The glob also matches runs whose names begin with the name of this one.
                    if failure.run == run:
                        yield failure


class ErrorKind(NamedTuple):
    """Failures with the same message but for the name of the picture: how many, and one of their messages and names.

    ``retryable`` is whether one of them may succeed if it is asked again.
    """

    rows: int
    message: str
    example: str
    retryable: bool


def count_errors(failures: Iterable[Failure]) -> list[ErrorKind]:
    """Return the kinds of failures, the most common first. After ``MAX_ERROR_KINDS`` kinds, new kinds are left out."""
    kinds: dict[str, ErrorKind] = {}
    for failure in failures:
        kind = failure.message
        for name in (failure.uri, failure.filename, basename(failure.uri)):
            kind = kind.replace(name, "") if name else kind
        if kind in kinds or len(kinds) < MAX_ERROR_KINDS:
            new = ErrorKind(0, failure.message, failure.filename, failure.retryable)
            known = kinds.get(kind, new)
            kinds[kind] = known._replace(rows=known.rows + 1, retryable=known.retryable or failure.retryable)
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


def read_footer(path: str, reader: Reader) -> PartFooter:
    """Return kind, run, number of rows and times of one published Parquet file, from its footer and its path.

    Raises:
        Exception: if there is no such file, or it is not Parquet. The class depends on the file system.
    """
    with reader.open(path) as file:
        metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [index for index in range(metadata.num_columns) if metadata.schema.column(index).path == "created_at"]
    statistics = [group.column(index).statistics for group in groups for index in columns]
    known = [each for each in statistics if each is not None and each.has_min_max]
    first = min((each.min for each in known), default=None)
    last = max((each.max for each in known), default=None)
    run = run_of_part(FileSystems.split(path)[1]) or ""
    return PartFooter(kind_of(path), run, metadata.num_rows, first, last)


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
