"""An output opened for reading: its rows as tables of DuckDB, its runs and their records. Nothing is read before asked.

No pandas, no whole table in memory: an output may hold a billion rows.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import duckdb
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from fsspec import AbstractFileSystem

from ..core.records import ANNOTATION_SCHEMA, FAILURE_SCHEMA
from ..output.files import absolute, glob_files, is_local
from ..output.run_record import read_records
from .quality import define_flags

PROTOCOL = "beam"
ROWS_AT_ONCE = 1024
SCHEMAS = {"data": ANNOTATION_SCHEMA, "errors": FAILURE_SCHEMA}


class Dataset:
    """The published rows of an output, as they were when it was opened.

    The tables are ``data`` and ``errors``, with the columns of their files, and ``flagged``: ``data`` with a column
    ``_flags``, a list of names of ``quality.QUALITY_FLAGS``.

    Raises:
        ValueError: there is no output at this place.
    """

    def __init__(self, output: str) -> None:
        self.output = absolute(output)
        parts = {kind: glob_files(FileSystems.join(self.output, kind, "*.parquet")) for kind in SCHEMAS}
        if not any(parts.values()):
            raise ValueError(f"{output}: no rows there; give the folder that annotate wrote, with data/ in it")
        # DuckDB would fetch an extension from the network by itself.
        self.database = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        # In a notebook it is off, and may not even be turned off where a package is missing.
        if self.tuples("SELECT current_setting('enable_progress_bar')") == [(True,)]:
            self.database.execute("SET enable_progress_bar = false")
        # What does not fit into memory; by itself it would lie wherever the command was started.
        spill = os.path.join(tempfile.gettempdir(), f"moondream-beam-report-{os.getpid()}")
        self.database.execute(f"SET temp_directory = {literal(spill)}")
        if not is_local(self.output):
            self.database.register_filesystem(BeamFiles())
        for kind, schema in SCHEMAS.items():
            # Typed and empty, so that a folder without files, or files older than a column, lacks nothing.
            self.database.from_arrow(schema.empty_table()).create(f"no_{kind}")
            rows = f"FROM no_{kind}"
            if parts[kind]:
                files = ", ".join(literal(_readable(path)) for path in sorted(parts[kind]))
                rows += f" UNION ALL BY NAME FROM read_parquet([{files}], union_by_name = true)"
            self.database.execute(f"CREATE VIEW {kind} AS {rows}")
        define_flags(self.database)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def path(self, *names: str) -> str:
        """The place of a file of the output."""
        return FileSystems.join(self.output, *names)

    def materialize_flags(self) -> None:
        """Judge all rows now and once, for the many questions that a page has about suspicious ones."""
        self.database.execute("CREATE OR REPLACE TEMP TABLE flags AS FROM main.flags")

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns; what the package itself does not write comes last."""
        return [row[0] for row in self.tuples(f"DESCRIBE {table}")]

    def count(self) -> int:
        """How many rows there are of both kinds, which files say without being read."""
        ((rows,),) = self.tuples("SELECT (SELECT count(*) FROM data) + (SELECT count(*) FROM errors)")
        return int(rows)

    def tuples(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query that has few."""
        return self.database.execute(query, list(values)).fetchall()

    def rows(self, query: str, *values: object) -> Iterator[dict[str, Any]]:
        """The rows of a query, a batch at a time, however many. Several may be read at once."""
        found = self.database.cursor().execute(query, list(values))
        names = [column[0] for column in found.description or ()]
        while batch := found.fetchmany(ROWS_AT_ONCE):
            yield from (dict(zip(names, row, strict=True)) for row in batch)

    def records(self) -> list[dict[str, Any]]:
        """The records of the runs that have ended, the oldest first."""
        return read_records(self.output)


@contextlib.contextmanager
def duckdb_errors(output: str) -> Iterator[None]:
    """Within this block, what DuckDB can't do is told as what is wrong with the output.

    Raises:
        ValueError: its files can't be read.
    """
    try:
        yield
    except duckdb.Error as error:
        # Its first line says what; the others quote our query.
        raise ValueError(f"{output} can't be read: {str(error).splitlines()[0]}") from error


def literal(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def name(text: str) -> str:
    """A column's name as SQL has it."""
    return '"' + text.replace('"', '""') + '"'


def _readable(path: str) -> str:
    return path if is_local(path) else f"{PROTOCOL}://{path}"


class BeamFiles(AbstractFileSystem):  # type: ignore[misc]
    """What DuckDB asks of files that it can't open itself, answered by Beam's file systems. Reading only."""

    protocol = PROTOCOL

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{PROTOCOL}://")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size and kind of one file."""
        path = self._strip_protocol(path)
        found: list[FileMetadata] = FileSystems.match([path])[0].metadata_list
        if not found:
            raise FileNotFoundError(path)
        return {"name": path, "size": found[0].size_in_bytes, "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """The path itself: names are listed before DuckDB sees them."""
        return [self._strip_protocol(path)]

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """The file, to be read."""
        if mode != "rb":
            raise PermissionError(f"{path}: opened for {mode}, and this only reads")
        return _CloseOnDelete(FileSystems.open(self._strip_protocol(path), compression_type="uncompressed"))

    def modified(self, path: str) -> datetime:
        """Always the same moment: what is published does not change."""
        return datetime.fromtimestamp(0, timezone.utc)


class _CloseOnDelete:
    """An open file that is closed when nobody has it any more: DuckDB does not close those it was given."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __del__(self) -> None:
        self._file.close()
