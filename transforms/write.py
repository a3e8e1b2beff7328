"""Rows of one shard to Parquet: streamed under a temporary name, published by one rename a file."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from .records import ANNOTATION_SCHEMA, FAILURE_SCHEMA, Annotation, Row, to_table
from .summary import BILLED_COLUMNS, SUMMED_COLUMNS, Summary, sum_summaries

# Both are compared with bytes in memory, before compression: what a reader of one row group, or one file, must hold.
ROW_GROUP_BYTES = 16 << 20
FILE_BYTES = 512 << 20
ROWS_AT_ONCE = 256
COMPRESSION, COMPRESSION_LEVEL = "zstd", 3


class ShardWriter:
    """The files of one shard of one run. Nothing is seen under its final name before ``publish``.

    A shard ends with the rename of its first data file (empty when all its rows are failures): where that file is, the
    shard is whole, and ``is_published`` says so to a second attempt.
    """

    def __init__(self, output: str, run: str, shard: int) -> None:
        self.name = f"part-{run}-{shard:05d}"
        self._data = _Parts(output, "data", self.name, ANNOTATION_SCHEMA)
        self._errors = _Parts(output, "errors", self.name, FAILURE_SCHEMA)

    @property
    def is_published(self) -> bool:
        """Whether an earlier attempt at this shard of this run came to its end."""
        return FileSystems.exists(self._data.final_path(0))

    def add(self, row: Row) -> None:
        """Take a row; it is written with others as enough of them have come."""
        (self._data if isinstance(row, Annotation) else self._errors).add(row)

    def publish(self) -> bool:
        """Close and rename: first the failures, then the data, its first file last of all.

        False, and nothing is published, where another attempt came first: its rows may be counted already.
        """
        self._data.close(at_least_one=True)
        self._errors.close()
        if self.is_published:
            self.discard()
            return False
        # An earlier attempt may have died halfway: what it left is no longer true.
        self._errors.unpublish()
        self._data.unpublish()
        self._errors.publish()
        self._data.publish()
        return True

    def published_summary(self) -> Summary:
        """The sums over the rows that an earlier attempt published."""
        failures = (Summary.of_failures(table) for table in self._errors.read(BILLED_COLUMNS))
        return sum_summaries([*failures, *(Summary.of_table(table) for table in self._data.read(SUMMED_COLUMNS))])

    def discard(self) -> None:
        """Remove what was written and not published."""
        self._data.discard()
        self._errors.discard()


class _Parts:
    """Files of one kind, a new one whenever the last is full."""

    def __init__(self, output: str, kind: str, name: str, schema: pa.Schema) -> None:
        self.folder = FileSystems.join(output, kind)
        self.temporary_folder = temporary_folder(output)
        self.name, self.schema = name, schema
        self.rows: list[Any] = []
        self.tables: list[pa.Table] = []
        self.paths: list[str] = []
        self.written_bytes = 0
        self.writer: pq.ParquetWriter | None = None
        self.file: Any = None

    def final_path(self, part: int) -> str:
        """Where the part of this number is published."""
        suffix = f"-{part}" if part else ""
        return FileSystems.join(self.folder, f"{self.name}{suffix}.parquet")

    def add(self, row: Any) -> None:
        self.rows.append(row)
        if len(self.rows) == ROWS_AT_ONCE:
            self._pack()
            if sum(table.nbytes for table in self.tables) >= ROW_GROUP_BYTES:
                self._write_group()

    def close(self, at_least_one: bool = False) -> None:
        self._pack()
        if self.tables[0].num_rows or len(self.tables) > 1 or (at_least_one and not self.paths):
            self._write_group()
        self._close_file()

    def publish(self) -> None:
        make_folder(self.folder)
        for part in reversed(range(len(self.paths))):
            FileSystems.rename([self.paths[part]], [self.final_path(part)])

    def published(self) -> list[str]:
        stem = FileSystems.join(self.folder, self.name)
        return matching(f"{stem}.parquet", f"{stem}-*.parquet")

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for path in self.published():
            with FileSystems.open(path) as file:
                yield pq.read_table(file, columns=list(columns))

    def unpublish(self) -> None:
        if paths := self.published():
            FileSystems.delete(paths)

    def discard(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):
            self._close_file()
        if paths := matching(*self.paths):
            FileSystems.delete(paths)

    def _pack(self) -> None:
        """Rows as Python objects take ten times the memory that they take as Arrow."""
        self.tables.append(to_table(self.rows, self.schema))
        self.rows = []

    def _write_group(self) -> None:
        table = pa.concat_tables(self.tables)
        self.tables = []
        if self.writer is None:
            self._open_file()
        assert self.writer is not None
        # A row group of no rows is one that `datasets` can't read.
        if table.num_rows:
            self.writer.write_table(table)
        self.written_bytes += table.nbytes
        if self.written_bytes >= FILE_BYTES:
            self._close_file()

    def _open_file(self) -> None:
        make_folder(self.temporary_folder)
        path = FileSystems.join(self.temporary_folder, f"{self.name}-{uuid.uuid4().hex}.parquet")
        self.paths.append(path)
        self.file = FileSystems.create(path)
        self.writer = pq.ParquetWriter(
            self.file, self.schema, compression=COMPRESSION, compression_level=COMPRESSION_LEVEL
        )
        self.written_bytes = 0

    def _close_file(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.file.close()
            self.writer = None


def is_local(output: str) -> bool:
    """Whether an output is a path of this machine. A drive letter is no scheme: Beam knows."""
    return FileSystems.get_scheme(output) is None


def anchor(output: str) -> str:
    """An output that means the same in whatever folder a worker runs: a local path made absolute, a URL as it is."""
    return os.path.abspath(output) if is_local(output) else output


def temporary_folder(output: str) -> str:
    """Where files lie before they are published, on the same file system as the output."""
    return FileSystems.join(output, "_temporary")


def make_folder(path: str) -> None:
    """Make a folder and those above it; that it is there already is no error."""
    # Two workers may do so at the same moment, and Beam's mkdirs refuses what exists.
    if not FileSystems.exists(path):
        with contextlib.suppress(OSError):
            FileSystems.mkdirs(path)


def matching(*patterns: str) -> list[str]:
    """The files that these patterns match."""
    matches = FileSystems.match(list(patterns)) if patterns else []
    return [metadata.path for result in matches for metadata in result.metadata_list]
