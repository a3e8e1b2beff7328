"""Write the rows of one shard to Parquet: first under temporary names, then commit and rename."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.records import Annotation, Row
from ..core.row_schema import annotation_schema, failure_schema, to_table
from ..core.summary import BILLED_COLUMNS, SUMMED_COLUMNS, Summary, sum_summaries
from ..io.object_stores.file_systems import FileSystems
from .commit import create_exclusive, delete_exclusive, read_exclusive
from .files import exists, glob_files, make_folder, remove, rename_if_needed
from .layout import DATA, ERRORS, commit_path, part_name, shard_parts, temporary_folder, unpublished_part_path

# Bytes in memory before compression. They limit what a reader must hold: one row group, or one file. A single larger
# row gets a row group, or a file, of its own.
MAX_ROW_GROUP_BYTES = 16 << 20
MAX_FILE_BYTES = 512 << 20
# Rows, and characters in them, that are converted to Arrow at once. One text may be as long as thousands of others.
MAX_BATCH_ROWS = 256
MAX_BATCH_CHARACTERS = 1 << 20
COMPRESSION, COMPRESSION_LEVEL = "zstd", 3


class ShardWriter:
    """Writes the files of one shard of one run. No file has its final name before ``publish``.

    Several workers may attempt the same shard, and their answers may differ. Each attempt tries to create a commit
    file that lists its own files. Only one creation succeeds. Every attempt then renames the files on that list, so
    that the next attempt repairs a crash in between. The first data file is renamed last: a shard is complete once
    that file exists. The file has no rows if all images failed.
    """

    def __init__(self, output: str, run: str, shard: int, columns: Sequence[pa.Field] = ()) -> None:
        """``columns`` are the columns of a manifest that the rows keep."""
        self.columns = tuple(columns)
        self._data = _Parts(output, DATA, run, shard, annotation_schema(columns))
        self._errors = _Parts(output, ERRORS, run, shard, failure_schema(columns))
        self._lock = threading.Lock()
        self._commit_path = commit_path(output, run, shard)
        self._temporary_folder = temporary_folder(output)

    @property
    def is_published(self) -> bool:
        """Whether an attempt has published the shard: its first data file exists."""
        return exists(self._data.final_path(0))

    def recover_commit(self) -> bool:
        """Apply the commit of an earlier attempt that crashed before all files were renamed.

        Returns:
            True if the shard is published now, False if no attempt has committed it.
        """
        # The commit file is read first. Attempts delete it after the first data file exists. So a commit that was read
        # while there was no such file is the only commit of this shard.
        commit = read_exclusive(self._commit_path)
        if not self.is_published:
            if commit is None:
                return False
            self._apply_commit(commit)
        delete_exclusive(self._commit_path)
        return True

    def add(self, row: Row) -> None:
        """Add an answer or a failure. Rows are written in batches."""
        with self._lock:
            (self._data if isinstance(row, Annotation) else self._errors).add(row)

    def add_tables(self, answers: pa.Table, failures: pa.Table) -> None:
        """Add many rows at once, which ``take_new_rows`` does not return."""
        with self._lock:
            self._data.add_table(answers)
            self._errors.add_table(failures)

    def take_new_rows(self) -> tuple[pa.Table, pa.Table]:
        """Return the answers and the failures that were added since the last call. Another thread may call this."""
        with self._lock:
            return self._data.take_new(), self._errors.take_new()

    def publish(self) -> bool:
        """Write the remaining rows, commit, and rename: first the failures, then the answers, the first data file last.

        Returns:
            False if another attempt committed first. The files of that attempt are published then, and those of this
            attempt are deleted.

        Raises:
            OSError: if the commit file disappears before the shard is published.
        """
        self._data.close(at_least_one=True)
        self._errors.close()
        # From here on other attempts may rename these files, so ``discard`` must leave them alone.
        names = {parts.kind: parts.release() for parts in (self._errors, self._data)}
        mine = json.dumps(names).encode()
        commit = create_exclusive(self._commit_path, mine)
        committed = False
        if not self.is_published:
            if commit is None:
                raise OSError(f"{self._commit_path} was deleted by another process. Run the same command again.")
            self._apply_commit(commit)
            committed = commit == mine
        delete_exclusive(self._commit_path)
        if not committed:
            # No other attempt needs these files: if they were on the committed list, they would be renamed by now.
            remove(*(FileSystems.join(self._temporary_folder, name) for kind in names for name in names[kind]))
        return committed

    def _apply_commit(self, commit: bytes) -> None:
        names = json.loads(commit)
        for parts in (self._errors, self._data):
            parts.publish(names[parts.kind])

    def published_summary(self) -> Summary:
        """Return the sums over all published rows of the shard, from whichever attempt they are."""
        failures = (Summary.from_failures(table) for table in self._errors.read(BILLED_COLUMNS))
        return sum_summaries(
            [*failures, *(Summary.from_annotations(table) for table in self._data.read(SUMMED_COLUMNS))]
        )

    def discard(self) -> None:
        """Delete the files of this attempt that are not committed."""
        self._data.discard()
        self._errors.discard()


class _Parts:
    """The data files, or the error files, of one attempt. A new file is begun when the last one is full."""

    def __init__(self, output: str, kind: str, run: str, shard: int, schema: pa.Schema) -> None:
        self.output, self.kind, self.run, self.shard, self.schema = output, kind, run, shard, schema
        self.folder = FileSystems.join(output, kind)
        self.rows: list[Any] = []
        self.characters = 0
        self.tables: list[pa.Table] = []
        # Those of ``tables``, written or not, that ``take_new`` has not returned.
        self.new_tables: list[pa.Table] = []
        self.paths: list[str] = []
        self.written_bytes = 0
        self.writer: pq.ParquetWriter | None = None
        self.file: Any = None

    def final_path(self, number: int) -> str:
        """Return the path at which the file of this number is published; files count from 0."""
        return FileSystems.join(self.folder, part_name(self.run, self.shard, number))

    def add(self, row: Any) -> None:
        self.rows.append(row)
        self.characters += sum(len(value) for value in row if isinstance(value, str))
        if len(self.rows) == MAX_BATCH_ROWS or self.characters >= MAX_BATCH_CHARACTERS:
            self._convert_rows()

    def add_table(self, table: pa.Table) -> None:
        self._convert_rows()
        self._append(table)

    def take_new(self) -> pa.Table:
        self._convert_rows()
        tables, self.new_tables = self.new_tables, []
        return pa.concat_tables([self.schema.empty_table(), *tables])

    def close(self, at_least_one: bool = False) -> None:
        """Write all rows and close the file. ``at_least_one``: write a file without rows if there are none."""
        self._convert_rows()
        if self.tables or (at_least_one and not self.paths):
            self._write_group()
        self._close_file()

    def release(self) -> list[str]:
        """Return the names of all files, in order. ``discard`` does not delete these files any more."""
        paths, self.paths = self.paths, []
        return [FileSystems.split(path)[1] for path in paths]

    def publish(self, names: Sequence[str]) -> None:
        """Rename temporary files of these names to their final names, the first one last.

        Files that another attempt has renamed are left as they are.
        """
        make_folder(self.folder)
        folder = temporary_folder(self.output)
        for number in reversed(range(len(names))):
            rename_if_needed(FileSystems.join(folder, names[number]), self.final_path(number))

    def read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield these columns of each published file of the shard."""
        for path in glob_files(*(FileSystems.join(self.folder, name) for name in shard_parts(self.run, self.shard))):
            with FileSystems.open(path) as file:
                yield pq.read_table(file, columns=list(columns))

    def discard(self) -> None:
        """Close the open file, and delete the files in ``paths``, which a commit has not taken over yet."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._close_file()
        remove(*self.paths)

    def _convert_rows(self) -> None:
        """Convert the rows to Arrow, which takes a tenth of the memory, and write the tables once they fill a group."""
        table = to_table(self.rows, self.schema)
        self.rows, self.characters = [], 0
        if table.num_rows:
            self.new_tables.append(table)
        self._append(table)

    def _append(self, table: pa.Table) -> None:
        if self.tables and sum(table.nbytes for table in self.tables) + table.nbytes > MAX_ROW_GROUP_BYTES:
            self._write_group()
        if table.num_rows:
            self.tables.append(table)

    def _write_group(self) -> None:
        table = pa.concat_tables([self.schema.empty_table(), *self.tables])
        self.tables = []
        if self.writer is not None and self.written_bytes + table.nbytes > MAX_FILE_BYTES:
            self._close_file()
        if self.writer is None:
            self._open_file()
        assert self.writer is not None
        # `datasets` cannot read a row group without rows.
        if table.num_rows:
            self.writer.write_table(table)
        self.written_bytes += table.nbytes

    def _open_file(self) -> None:
        path = unpublished_part_path(self.output, self.run, self.shard)
        make_folder(FileSystems.split(path)[0])
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
