"""Rows of one shard to Parquet: streamed under a temporary name, published by one rename a file."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from ..core.records import ANNOTATION_SCHEMA, FAILURE_SCHEMA, Annotation, Row, annotation_schema, to_table
from ..core.summary import BILLED_COLUMNS, SUMMED_COLUMNS, Summary, sum_summaries
from .commit import create_exclusive, delete_commit, read_commit
from .files import exists, glob_files, make_folder, remove, rename_if_needed, temporary_folder

# Bytes in memory, before compression: what a reader of one row group, or of one file, must hold. A single row that is
# larger has a row group, or a file, of its own.
ROW_GROUP_BYTES = 16 << 20
FILE_BYTES = 512 << 20
# Rows that are made Arrow at once, and the characters in them: one text may be as long as thousands of others.
ROWS_AT_ONCE = 256
TEXT_AT_ONCE = 1 << 20
COMPRESSION, COMPRESSION_LEVEL = "zstd", 3


class ShardWriter:
    """The files of one shard of one run. Nothing is seen under its final name before ``publish``.

    Attempts at a shard may come to their ends in the same moment, with different failures. So they first decide whose
    files it is to have; then these are renamed, by all who find that not done: an attempt that dies or hangs in between
    holds up nobody. A shard ends with the rename of its first data file (empty when all its rows are failures): where
    that file is, the shard is whole.
    """

    def __init__(self, output: str, run: str, shard: int, columns: Sequence[pa.Field] = ()) -> None:
        self.name = f"part-{run}-{shard:05d}"
        self._data = _Parts(output, "data", self.name, annotation_schema(columns))
        self._errors = _Parts(output, "errors", self.name, FAILURE_SCHEMA)
        self._decision = FileSystems.join(temporary_folder(output), f"{self.name}.parquet.decision")

    @property
    def is_published(self) -> bool:
        """Whether an earlier attempt at this shard of this run came to its end."""
        return exists(self._data.final_path(0))

    def finish(self) -> bool:
        """Whether an earlier attempt at this shard was published, or is now: it may have died halfway."""
        # In this order, as below: none is forgotten before the shard is published, so a decision that was read before
        # it was is the only one there ever will be.
        decision = read_commit(self._decision)
        if not self.is_published:
            if decision is None:
                return False
            self._carry_out(decision)
        delete_commit(self._decision)
        return True

    def add(self, row: Row) -> None:
        """Take a row; it is written with others as enough of them have come."""
        (self._data if isinstance(row, Annotation) else self._errors).add(row)

    def publish(self) -> bool:
        """Close and rename: first the failures, then the data, its first file last of all.

        False where another attempt came first, which is then published: its rows may be counted already.
        """
        self._data.close(at_least_one=True)
        self._errors.close()
        # From here on they are no longer for this attempt alone to remove.
        names = {parts.kind: parts.hand_over() for parts in (self._errors, self._data)}
        mine = json.dumps(names).encode()
        decision = create_exclusive(self._decision, mine)
        first = False
        if not self.is_published:
            if decision is None:
                raise OSError(f"{self._decision} is gone")
            self._carry_out(decision)
            first = decision == mine
        delete_commit(self._decision)
        if not first:
            # Nobody else will want them: had they been decided on, they would have other names by now.
            folder = FileSystems.split(self._decision)[0]
            remove(*(FileSystems.join(folder, name) for kind in names for name in names[kind]))
        return first

    def _carry_out(self, decision: bytes) -> None:
        names = json.loads(decision)
        for parts in (self._errors, self._data):
            parts.publish(names[parts.kind])

    def published_summary(self) -> Summary:
        """The sums over the rows that an earlier attempt published."""
        failures = (Summary.from_failures(table) for table in self._errors.read(BILLED_COLUMNS))
        return sum_summaries(
            [*failures, *(Summary.from_annotations(table) for table in self._data.read(SUMMED_COLUMNS))]
        )

    def discard(self) -> None:
        """Remove what was written and not published."""
        self._data.discard()
        self._errors.discard()


class _Parts:
    """Files of one kind, a new one whenever the last is full."""

    def __init__(self, output: str, kind: str, name: str, schema: pa.Schema) -> None:
        self.kind, self.folder = kind, FileSystems.join(output, kind)
        self.temporary_folder = temporary_folder(output)
        self.name, self.schema = name, schema
        self.rows: list[Any] = []
        self.text = 0
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
        self.text += sum(len(value) for value in row if isinstance(value, str))
        if len(self.rows) == ROWS_AT_ONCE or self.text >= TEXT_AT_ONCE:
            self._pack()

    def close(self, at_least_one: bool = False) -> None:
        self._pack()
        if self.tables or (at_least_one and not self.paths):
            self._write_group()
        self._close_file()

    def hand_over(self) -> list[str]:
        """The names of the files, which are no longer discarded."""
        paths, self.paths = self.paths, []
        return [FileSystems.split(path)[1] for path in paths]

    def publish(self, names: Sequence[str]) -> None:
        """Rename files of these names, unless that was done, the first one last."""
        make_folder(self.folder)
        for part in reversed(range(len(names))):
            rename_if_needed(FileSystems.join(self.temporary_folder, names[part]), self.final_path(part))

    def published(self) -> list[str]:
        stem = FileSystems.join(self.folder, self.name)
        return glob_files(f"{stem}.parquet", f"{stem}-*.parquet")

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for path in self.published():
            with FileSystems.open(path) as file:
                yield pq.read_table(file, columns=list(columns))

    def discard(self) -> None:
        with contextlib.suppress(OSError, pa.ArrowException):
            self._close_file()
        remove(*self.paths)

    def _pack(self) -> None:
        """Rows as Python objects take ten times the memory that they take as Arrow."""
        table = to_table(self.rows, self.schema)
        self.rows, self.text = [], 0
        if self.tables and self._packed_bytes() + table.nbytes > ROW_GROUP_BYTES:
            self._write_group()
        if table.num_rows:
            self.tables.append(table)

    def _packed_bytes(self) -> int:
        return sum(table.nbytes for table in self.tables)

    def _write_group(self) -> None:
        table = pa.concat_tables([self.schema.empty_table(), *self.tables])
        self.tables = []
        if self.writer is not None and self.written_bytes + table.nbytes > FILE_BYTES:
            self._close_file()
        if self.writer is None:
            self._open_file()
        assert self.writer is not None
        # A row group of no rows is one that `datasets` can't read.
        if table.num_rows:
            self.writer.write_table(table)
        self.written_bytes += table.nbytes

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
        writer, self.writer = self.writer, None
        if writer is not None:
            with self.file:
                writer.close()


def check_schema(output: str, schema: pa.Schema) -> None:
    """Refuse an output whose rows have other columns: no reader takes files of several kinds for one table.

    Raises:
        ValueError: it has.
    """
    for path in glob_files(FileSystems.join(output, "data", "*.parquet"))[:1]:
        with FileSystems.open(path) as file:
            there = pq.read_schema(file)
        if (there.names, there.types) != (schema.names, schema.types):
            kept = [f"{field.name} ({field.type})" for field in there if field.name not in ANNOTATION_SCHEMA.names]
            raise ValueError(
                f"output {output} was begun with kept columns {', '.join(kept) or 'none'}:"
                " keep the same, in the same order and of the same types, or choose another output"
            )
