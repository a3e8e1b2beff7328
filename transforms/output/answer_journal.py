"""Keep the rows of unfinished shards on disk, so that a crash loses at most some seconds of answers.

An attempt at a shard writes a file every few seconds, with the rows that it has added since its last file. A later
attempt of the same run takes the rows up, and a later run publishes them. The files lie in ``_temporary``, and their
names do not end like those of Parquet files, because some readers look for rows in every folder of an output.

Rows that a hosted API was paid for are not in these files. The journal of paid jobs has them already.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..core.row_schema import annotation_schema, failure_schema, kept_fields
from ..io.object_stores.file_systems import FileSystems
from ..io.uris import OBJECT_STORE_SCHEMES, scheme_of
from .dataset_card import update_card
from .files import exists, glob_files, remove, write_atomic
from .layout import AnswerFile, all_answers_glob, answers_glob, answers_path, draft_path, run_answers_glob
from .writer import ShardWriter

logger = logging.getLogger(__name__)


class KeptRows(NamedTuple):
    """Rows of one shard from the files of the journal, each id once."""

    answers: pa.Table
    failures: pa.Table

    @property
    def ids(self) -> set[str]:
        """The ids of all rows."""
        return {*self.answers["id"].to_pylist(), *self.failures["id"].to_pylist()}

    def only(self, ids: Collection[str]) -> KeptRows:
        """Return the rows with these ids."""
        wanted = pa.array(list(ids), pa.string())
        return KeptRows(*(table.filter(pc.is_in(table["id"], value_set=wanted)) for table in self))


class AnswerJournal:
    """Writes the new rows of a ``ShardWriter`` to a file every ``interval_s`` seconds while its block runs.

    If the block raises, the last rows are written too. ``delete`` deletes the files once the shard is published.
    """

    def __init__(self, writer: ShardWriter, output: str, run: str, shard: int, interval_s: float) -> None:
        self.writer, self.output, self.run, self.shard, self.interval_s = writer, output, run, shard, interval_s
        self._attempt, self._num_files = uuid.uuid4().hex, 0
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._error: BaseException | None = None

    def __enter__(self) -> AnswerJournal:
        OPEN_JOURNALS.add(self)
        self._thread = threading.Thread(target=self._flush_regularly, name="answer journal", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        try:
            if kind is not None:
                self.flush()
        except Exception:
            # The error of the block is the one to report.
            logger.warning("%s: the last answers of shard %d are not kept", self.output, self.shard, exc_info=True)
        finally:
            OPEN_JOURNALS.remove(self)

    def flush(self) -> None:
        """Write the rows that no file has yet. Any thread may call this.

        Raises:
            Exception: if the file cannot be written. The class depends on the file system.
        """
        with self._lock:
            answers, failures = (table.filter(pc.is_null(table["hosted"])) for table in self.writer.take_new_rows())
            rows = answers.num_rows + failures.num_rows
            if rows:
                path = answers_path(self.output, self.run, self.shard, self._attempt, self._num_files, rows)
                self._num_files += 1
                self._write(path, _encode(answers, failures))

    def check(self) -> None:
        """Raise the error of a file that could not be written; else do nothing."""
        if self._error is not None:
            raise self._error

    def kept(self) -> KeptRows:
        """Return the rows that earlier attempts of this run at this shard have kept."""
        paths = glob_files(answers_glob(self.output, self.run, self.shard))
        return _read(sorted(paths), annotation_schema(self.writer.columns))

    def delete(self) -> None:
        """Delete the files of all attempts of this run at this shard."""
        remove(answers_glob(self.output, self.run, self.shard))

    def _write(self, path: str, content: bytes) -> None:
        if scheme_of(path) in OBJECT_STORE_SCHEMES and scheme_of(path) != "hdfs":
            # An object appears once it is complete. A rename would take several requests more. HDFS has files.
            with FileSystems.create(path) as file:
                file.write(content)
        else:
            write_atomic(path, content, draft_path(self.output, self.run))

    def _flush_regularly(self) -> None:
        wait_s = self.interval_s
        while not self._ended.wait(wait_s):
            started = time.monotonic()
            try:
                self.flush()
            except Exception as error:
                self._error = error
                return
            # A file in a bucket takes a while to write. The rows that come meanwhile wait for the next file.
            wait_s = max(0.0, self.interval_s - (time.monotonic() - started))


class _OpenJournals:
    """The journals whose blocks run in this process, and the number of shards that the process works on."""

    def __init__(self) -> None:
        self._journals: set[AnswerJournal] = set()
        self._num_shards = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def shard(self) -> Iterator[None]:
        """Within this block, the process works on a shard."""
        with self._changed:
            self._num_shards += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_shards -= 1
                self._changed.notify_all()

    def add(self, journal: AnswerJournal) -> None:
        with self._changed:
            self._journals.add(journal)

    def remove(self, journal: AnswerJournal) -> None:
        with self._changed:
            self._journals.discard(journal)

    def flush(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` seconds until no shard is at work, and flush the journals that are still open."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_shards, timeout_s)
            journals = list(self._journals)
        for journal in journals:
            journal.flush()


OPEN_JOURNALS = _OpenJournals()


def publish_kept(output: str, schema: pa.Schema, is_dead: Callable[[str], bool]) -> int:
    """Publish the rows that dead runs have kept, as files of those runs, and delete the files of the journal.

    A shard that its run has published already has these rows. Several processes may do this at the same time.

    Args:
        schema: the schema of ``data/``.
        is_dead: returns whether a run of this name has ended.

    Returns:
        The number of rows that were published by this call. A commit that two processes complete counts in neither.
    """
    published = 0
    for (run, shard), paths in sorted(_files(output).items()):
        if is_dead(run):
            writer = ShardWriter(output, run, shard, kept_fields(schema))
            if not writer.recover_commit():
                rows = _read(paths, schema)
                writer.add_tables(*rows)
                if writer.publish():
                    published += rows.answers.num_rows + rows.failures.num_rows
            remove(*paths)
            update_card(output, run)
    return published


def kept_by_shard(output: str, run: str | None = None) -> dict[tuple[str, int], int]:
    """Return the number of rows in the files of the journal, by run and shard: of one run, or of all."""
    counts: dict[tuple[str, int], int] = defaultdict(int)
    for path in glob_files(run_answers_glob(output, run) if run else all_answers_glob(output)):
        # The glob also matches runs whose names begin with the name of this one.
        if (name := _name(path)) and run in (None, name.run):
            counts[name.run, name.shard] += name.rows
    return dict(counts)


def _name(path: str) -> AnswerFile | None:
    return AnswerFile.parse(FileSystems.split(path)[1])


def _files(output: str) -> dict[tuple[str, int], list[str]]:
    """Return the paths of the files of the journal by run and shard, in the order of their names."""
    by_shard: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in sorted(glob_files(all_answers_glob(output))):
        if name := _name(path):
            by_shard[name.run, name.shard].append(path)
    return by_shard


def _encode(answers: pa.Table, failures: pa.Table) -> bytes:
    """Return two Arrow streams, one after the other."""
    sink = pa.BufferOutputStream()
    for table in (answers, failures):
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return bytes(sink.getvalue())


def _read(paths: Iterable[str], schema: pa.Schema) -> KeptRows:
    """Return the rows of these files. A file that is gone, broken or has other columns is dropped with a warning."""
    tables: list[list[pa.Table]] = [[schema.empty_table()], [failure_schema(kept_fields(schema)).empty_table()]]
    for path in paths:
        try:
            with FileSystems.open(path) as file:
                content = pa.BufferReader(file.read())
            read = [pa.ipc.open_stream(content).read_all().cast(each[0].schema) for each in tables]
        except Exception as error:
            if not exists(path):
                # Another slice has published these rows meanwhile.
                continue
            name, reason = _name(path), " ".join(str(error).split())
            logger.warning(
                "%s can't be read, so its %s answers are asked again: %s", path, name.rows if name else "", reason
            )
            continue
        for each, table in zip(tables, read, strict=True):
            each.append(table)
    seen: set[str] = set()
    return KeptRows(*(_without(pa.concat_tables(each), seen) for each in tables))


def _without(table: pa.Table, seen: set[str]) -> pa.Table:
    """Return the rows whose ids are not in ``seen``, each id once, and add the ids to ``seen``."""
    first = []
    for id in table["id"].to_pylist():
        first.append(id not in seen)
        seen.add(id)
    return table.filter(pa.array(first, pa.bool_()))
