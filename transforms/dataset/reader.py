"""Open an output for reading: its rows as tables of DuckDB, and the records of its runs.

An output may hold a billion rows, so no table is ever loaded into memory as a whole.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from ..core.row_schema import ANNOTATION_SCHEMA, FAILURE_SCHEMA
from ..io.object_stores.file_systems import FileSystems, beam_file_systems
from ..output.files import absolute, glob_files, is_local
from ..output.layout import run_of_part
from ..output.run_record import read_records
from .quality import FLAG_COLUMNS, define_flags

PROTOCOL = "beam"
# Rows that DuckDB hands over at a time.
NUM_FETCHED_ROWS = 1024
# Bytes above which DuckDB writes intermediate results to the temporary folder. By default, DuckDB takes 80 % of the
# main memory. With this limit, exports and reports of 10,000,000 rows stay below 2 GiB.
MEMORY_LIMIT = 1280 << 20
SCHEMAS = {"data": ANNOTATION_SCHEMA, "errors": FAILURE_SCHEMA}
# Views without the manifest's columns, and their tables.
OWN_VIEWS = {"answers": "data", "failures": "errors"}
# Columns of both tables that the rows of every version have.
REQUIRED = ("id", "key", "filename", "uri", "task", "prompt", "run", "created_at")


class Dataset:
    """The committed rows of an output as SQL tables. Files that are committed later do not appear.

    The tables are ``data`` and ``errors``, with the columns of their files. A manifest's column with a name of
    ``quality.FLAG_COLUMNS`` has a number after its name: ``_flags_2``. The views ``answers`` and ``failures`` are
    ``data`` and ``errors`` without the manifest's columns. The view ``flagged`` is ``data`` with a column ``_flags``, a
    list of names of ``quality.QUALITY_FLAGS``. The view ``flags`` holds ``id``, ``key`` and ``_flags`` of the rows that
    have a flag.

    Raises:
        ValueError: if neither ``output/data`` nor ``output/errors`` holds a Parquet file, or if one of these files
            lacks a column that every row of an output has.
    """

    def __init__(self, output: str) -> None:
        self.output = absolute(output)
        parts = {kind: sorted(glob_files(FileSystems.join(self.output, kind, "*.parquet"))) for kind in SCHEMAS}
        if not any(parts.values()):
            raise ValueError(
                f"{output}: no rows there; give the folder that annotate wrote, with data/ or errors/ in it"
            )
        # By default, DuckDB downloads missing extensions from the network.
        self.database = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        # Only if the bar is on: in a notebook it is off, and the SET fails if a package is missing.
        if self.tuples("SELECT current_setting('enable_progress_bar')") == [(True,)]:
            self.database.execute("SET enable_progress_bar = false")
        # By default, DuckDB writes what does not fit into memory below the current folder.
        spill = os.path.join(tempfile.gettempdir(), f"moondream-beam-report-{os.getpid()}")
        self.database.execute(f"SET temp_directory = {literal(spill)}")
        if self.tuples("SELECT parse_formatted_bytes(current_setting('memory_limit'))")[0][0] > MEMORY_LIMIT:
            self.database.execute(f"SET memory_limit = '{MEMORY_LIMIT} bytes'")
        if not is_local(self.output):
            self.database.register_filesystem(BeamFiles())
        for kind, files in parts.items():
            self._check_files(output, files)
            self._create_view(kind, files)
        # Statistics read these views. A manifest's column could have the name of an alias in their queries.
        for view, kind in OWN_VIEWS.items():
            own = ", ".join(map(identifier, SCHEMAS[kind].names))
            self.database.execute(f"CREATE VIEW {view} AS SELECT {own} FROM {kind}")
        define_flags(self.database)

    def _check_files(self, output: str, files: list[str]) -> None:
        """Raise ValueError if one of the Parquet files lacks a column of ``REQUIRED``.

        Opened are the first file, and the files whose names no run gives.
        """
        unnamed = [path for path in files if run_of_part(FileSystems.split(path)[1]) is None]
        for path in dict.fromkeys([*files[:1], *unnamed]):
            query = f"SELECT * FROM read_parquet({literal(_readable(path))}, hive_partitioning = false) LIMIT 0"
            found = {name.casefold() for name in self.database.sql(query).columns}
            if missing := [name for name in REQUIRED if name not in found]:
                raise ValueError(
                    f"{output} is not an output of annotate: {path} has no column {', '.join(missing)}; "
                    "annotate these pictures first, and give the folder that annotate wrote, or move the file away"
                )

    def _create_view(self, kind: str, files: list[str]) -> None:
        # An empty table with all columns adds those that are missing: in old files, or if there is no file.
        self.database.from_arrow(SCHEMAS[kind].empty_table()).create(f"no_{kind}")
        rows = f"FROM no_{kind}"
        if files:
            paths = ", ".join(literal(_readable(path)) for path in files)
            rows += f" UNION ALL BY NAME FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"
        columns = self.database.sql(rows).columns
        taken = {column.casefold() for column in (*columns, *FLAG_COLUMNS)}
        named = ", ".join(
            f"{identifier(column)} AS {identifier(unused_name(column, taken))}"
            for column in columns
            if column.casefold() in FLAG_COLUMNS
        )
        renamed = f" RENAME ({named})" if named else ""
        self.database.execute(f"CREATE VIEW {kind} AS SELECT *{renamed} FROM ({rows})")

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def path(self, *names: str) -> str:
        """Return the path of a file of the output, such as ``path("runs", "a.json")``."""
        return FileSystems.join(self.output, *names)

    def materialize_flags(self) -> None:
        """Compute the view ``flags`` once and keep the result as a table, because a report queries ``flags`` often."""
        self.tuples("CREATE OR REPLACE TEMP TABLE flags AS FROM main.flags")

    def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns. Columns that came from a manifest come last."""
        return [row[0] for row in self.tuples(f"DESCRIBE {table}")]

    def count(self) -> int:
        """Return the number of rows in ``data`` and ``errors`` together. Only the footers of the files are read."""
        ((rows,),) = self.tuples("SELECT (SELECT count(*) FROM data) + (SELECT count(*) FROM errors)")
        return int(rows)

    def tuples(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query as a list. ``values`` replace the query's question marks."""
        first = self._begin(self.database, query, values)
        return [*first, *self.database.fetchall()] if len(first) == NUM_FETCHED_ROWS else first

    def rows(self, query: str, *values: object) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query as dicts, in bounded memory. Several iterators may be open at the same time."""
        for names, batch in self._batches(query, values):
            for row in batch:
                yield dict(zip(names, row, strict=True))

    def stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query as tuples, like ``rows``."""
        for _, batch in self._batches(query, ()):
            yield from batch

    def _batches(self, query: str, values: tuple[object, ...]) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
        """Yield the names of the columns and up to ``NUM_FETCHED_ROWS`` rows, until there are no more."""
        cursor = self.database.cursor()
        batch = self._begin(cursor, query, values)
        names = [column[0] for column in cursor.description or ()]
        while batch:
            yield names, batch
            batch = cursor.fetchmany(NUM_FETCHED_ROWS)

    def _begin(
        self, connection: duckdb.DuckDBPyConnection, query: str, values: tuple[object, ...]
    ) -> list[tuple[Any, ...]]:
        """Execute a query, and return its first rows, up to ``NUM_FETCHED_ROWS``.

        A query that does not fit into ``MEMORY_LIMIT``, such as one with long lists, which DuckDB cannot write to disk,
        is executed again with DuckDB's own limit. All later queries have that limit too.
        """
        try:
            return connection.execute(query, list(values)).fetchmany(NUM_FETCHED_ROWS)
        except duckdb.OutOfMemoryException:
            self.database.execute("RESET memory_limit")
            return connection.execute(query, list(values)).fetchmany(NUM_FETCHED_ROWS)

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the finished runs, ordered by their start. Skip files that are not records."""
        return read_records(self.output)


@contextlib.contextmanager
def duckdb_errors(output: str) -> Iterator[None]:
    """Translate an error of DuckDB in this block into a ValueError that names the output.

    Raises:
        ValueError: if DuckDB cannot read the files of the output.
    """
    try:
        yield
    except duckdb.Error as error:
        # Only the first line: the others quote the query.
        problem = str(error).splitlines()[0]
        raise ValueError(
            f"{output} can't be read: {problem}; restore or remove the file, or wait for the run that deletes it, and"
            " run again"
        ) from error


def literal(text: str) -> str:
    """Return a text as an SQL string literal: ``it's`` becomes ``'it''s'``."""
    return "'" + text.replace("'", "''") + "'"


def identifier(text: str) -> str:
    """Return the name of a column as a quoted SQL identifier: ``a"b`` becomes ``"a""b"``."""
    return '"' + text.replace('"', '""') + '"'


def unused_name(stem: str, taken: set[str]) -> str:
    """Return ``stem`` with the lowest number from 2 that makes a name outside ``taken``: ``price_2``.

    The name is added to ``taken``, which holds names in ``str.casefold``.
    """
    number = 2
    while f"{stem}_{number}".casefold() in taken:
        number += 1
    taken.add(f"{stem}_{number}".casefold())
    return f"{stem}_{number}"


def _readable(path: str) -> str:
    return path if is_local(path) else f"{PROTOCOL}://{path}"


class BeamFiles(AbstractFileSystem):  # type: ignore[misc]
    """Read-only file system for DuckDB that opens ``beam://`` paths, such as files in buckets, with Beam."""

    protocol = PROTOCOL

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{PROTOCOL}://")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return ``name``, ``size`` in bytes and ``type`` of one file.

        Raises:
            FileNotFoundError: if the file does not exist.
        """
        path = self._strip_protocol(path)
        found = beam_file_systems().match([path])[0].metadata_list
        if not found:
            raise FileNotFoundError(path)
        return {"name": path, "size": found[0].size_in_bytes, "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the path itself. ``Dataset`` gives DuckDB full paths, so there is nothing to expand."""
        return [self._strip_protocol(path)]

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open the file for reading.

        Raises:
            PermissionError: if ``mode`` is not ``rb``.
        """
        if mode != "rb":
            raise PermissionError(
                f"{path}: mode {mode} is not supported, this file system only reads; open the file with rb"
            )
        return _CloseOnDelete(FileSystems.open(self._strip_protocol(path)))

    def modified(self, path: str) -> datetime:
        """Return a constant, because committed files do not change."""
        return datetime.fromtimestamp(0, timezone.utc)


class _CloseOnDelete:
    """Wrapper that closes a file when the wrapper is garbage-collected, because DuckDB does not close its files."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __del__(self) -> None:
        self._file.close()
