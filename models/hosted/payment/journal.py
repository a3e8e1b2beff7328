"""The journal of paid jobs: a file for each job, so that a job is not paid twice after a crash.

A file is written before a job is submitted (state "submitting"), when the API has accepted it ("accepted"), and when
its answer has arrived ("done"). A request that is made again, in any later process, finds its job in the journal.
A file is replaced in whole, which every file system and object store can do.

Each job has the scope of its submitter: ``RUN/SHARD``, or ``RUN/SHARD/SLICE/NUM_SLICES`` if the run is one of several
slices. An unfinished job of another shard of the same run, or of another slice of the same input, is left alone: its
worker may still be running. Unfinished jobs of earlier runs may be taken over by any worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ...atomic_files import write_atomic
from ..http.errors import AccountError

State = Literal["submitting", "accepted", "cancelled", "done"]


class Store(Protocol):
    """A folder of small files whose names end with ``.json``."""

    def names(self) -> Iterable[str]:
        """Return the names of all files; none if the folder does not exist."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if the file does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file atomically and durably: a crash leaves either the old content or the new."""

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""


@dataclass(frozen=True)
class LocalStore:
    """A folder on a local disk. ``drafts`` is the path prefix of files during a write, by default the folder itself.

    A crash during a write leaves a draft, so ``drafts`` should be a place that the next run cleans up.
    """

    folder: str
    drafts: str = ""

    def names(self) -> Iterable[str]:
        """Return the names of all files; none if the folder does not exist."""
        with contextlib.suppress(FileNotFoundError):
            return [name for name in os.listdir(self.folder) if name.endswith(".json")]
        return []

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, or None if the file does not exist."""
        with contextlib.suppress(FileNotFoundError):
            return Path(self.folder, name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file atomically, and sync it to the disk. A missing folder is created."""
        write_atomic(Path(self.folder, name), content, self._draft(name))

    def remove(self, name: str) -> None:
        """Delete a file and its draft if they exist, and the folder if it is then empty."""
        self._draft(name).unlink(missing_ok=True)
        Path(self.folder, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)

    def _draft(self, name: str) -> Path:
        return Path(f"{self.drafts or self.folder + os.sep}{name}.draft")


@dataclass(eq=False)
class Entry:
    """The journal's entry of one job.

    ``request_ids``: one for each input, in the job's order; None for a request whose row has been written. ``name``: of
    the file. ``endpoint``: the backend that got the job. ``job``: the API's id, empty before acceptance.
    """

    name: str
    endpoint: str
    request_ids: list[str | None]
    state: State = "submitting"
    job: str = ""
    answer: Any = None
    units: float = 0.0
    usd: float = 0.0
    estimated: bool = False
    scope: str = ""

    def is_visible_to(self, scope: str) -> bool:
        """Return whether a worker of ``scope`` may take over this job while it is unfinished.

        True for an empty scope, the job's own scope, and scopes of other runs that are not slices of the same input.
        """
        run, *worker = scope.split("/")
        own_run, *own_worker = self.scope.split("/")
        if scope in ("", self.scope):
            return True
        return run != own_run and not _are_slices_of_one_input(worker[1:], own_worker[1:])


class Journal:
    """The entries of one API in one store, shared by all streams of a process. Without a store nothing is recorded."""

    def __init__(self, endpoint: str, store: Store | None) -> None:
        self.endpoint, self.store = endpoint, store
        self._entries: dict[str, Entry] = {}
        self._by_id: dict[str, list[Entry]] = {}
        # Names of entries whose jobs are in flight in this process.
        self._in_flight: set[str] = set()
        # Names of entries of other APIs.
        self._foreign: set[str] = set()
        self._lock = threading.RLock()

    def refresh(self) -> None:
        """Read the files that are new in the store, so that ``find`` knows their entries.

        Raises:
            RuntimeError: if a file is not a valid entry.
        """
        if self.store is None:
            return
        with self._lock:
            for name in self.store.names():
                if name not in self._entries and name not in self._foreign:
                    self._load(name)

    def find(self, request_id: str, scope: str = "") -> Entry | None:
        """Return the entry of a job that contains a request: a finished job, or an unfinished one visible to ``scope``.

        Return None if there is no such entry, or its job is in flight in this process.
        """
        with self._lock:
            for entry in list(self._by_id.get(request_id, ())):
                if entry.name in self._in_flight:
                    continue
                if entry.state == "done":
                    return entry
                # The entry is read again, because another worker may have updated or removed it.
                if entry.is_visible_to(scope) and (now := self._load(entry.name)) and request_id in now.request_ids:
                    return now
            return None

    def record_submission(self, request_ids: Sequence[str], scope: str = "") -> Entry:
        """Write and return the entry of a job that is about to be submitted.

        Raises:
            AccountError: if the entry can't be written. The job must then not be submitted.
        """
        entry = Entry(f"{uuid.uuid4().hex}.json", self.endpoint, list(request_ids), scope=scope)
        if self.store is not None:
            with self._lock:
                self._index(entry)
                self._in_flight.add(entry.name)
                self._write(entry)
        return entry

    def update(self, entry: Entry, state: State) -> None:
        """Set the state of an entry and write the whole entry. Raise AccountError if the write fails."""
        with self._lock:
            entry.state = state
            self._write(entry)

    def release(self, entry: Entry) -> None:
        """Mark the job of an entry as no longer in flight in this process, so that ``find`` may return it."""
        with self._lock:
            self._in_flight.discard(entry.name)

    def discard(self, entry: Entry) -> None:
        """Delete the entry and its file. The job was not paid, or its requests are submitted again."""
        with self._lock:
            self._in_flight.discard(entry.name)
            self._unindex(entry.name)
            if self.store is not None:
                self.store.remove(entry.name)

    def remove(self, request_ids: Iterable[str], scope: str = "") -> None:
        """Remove requests whose rows have been written from the entries visible to ``scope``.

        Entries without requests are deleted. Entries of jobs in flight in this process do not change.
        """
        with self._lock:
            written = set(request_ids)
            found = {entry.name: entry for request_id in written for entry in self._by_id.get(request_id, ())}
            for entry in found.values():
                if entry.name in self._in_flight or not entry.is_visible_to(scope):
                    continue
                # Another process may have removed requests of the same job, or all of them.
                now = self._load(entry.name) if self.store else entry
                if now is None:
                    continue
                entry = now
                self._unindex(entry.name)
                entry.request_ids = [None if each in written else each for each in entry.request_ids]
                if any(entry.request_ids):
                    self._index(entry)
                    self._write(entry)
                else:
                    self.discard(entry)

    def _load(self, name: str) -> Entry | None:
        """Read and index an entry. Return None if its file is gone or belongs to another API."""
        assert self.store is not None
        content = self.store.read(name)
        if content is None:
            self._unindex(name)
            return None
        try:
            entry = Entry(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise RuntimeError(
                f"{name} is not a valid entry of the journal of paid jobs: remove the file from _paid/ of the output "
                "and run the same command again; a job that was recorded in the file is paid again"
            ) from error
        if entry.endpoint != self.endpoint:
            self._foreign.add(name)
            return None
        self._index(entry)
        return entry

    def _index(self, entry: Entry) -> None:
        self._unindex(entry.name)
        self._entries[entry.name] = entry
        for request_id in filter(None, entry.request_ids):
            self._by_id.setdefault(request_id, []).append(entry)

    def _unindex(self, name: str) -> None:
        old = self._entries.pop(name, None)
        for request_id in filter(None, old.request_ids if old else ()):
            left = [entry for entry in self._by_id.get(request_id, ()) if entry.name != name]
            if left:
                self._by_id[request_id] = left
            else:
                self._by_id.pop(request_id, None)

    def _write(self, entry: Entry) -> None:
        if self.store is None:
            return
        try:
            self.store.write(entry.name, json.dumps(asdict(entry)).encode())
        except OSError as error:
            raise AccountError(
                f"can't write the journal of paid jobs: {error}; make the output folder writable"
            ) from error


def _are_slices_of_one_input(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two (slice number, number of slices) pairs are different slices of the same number."""
    return one != other and one[1:] == other[1:] != []
