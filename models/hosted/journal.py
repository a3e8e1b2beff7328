"""The journal of paid jobs: written before and after each call, so that a crash costs no money.

A job is one small file that is replaced whole, which every file system can do, object stores too. It says ``asked``
before the job is sent, ``accepted`` once the API gave it an id, and ``done`` with the answer. Whoever is asked the same
request again, in this process or after a crash in another, goes on from there.

Who asks says in which scope: ``run/shard``, or ``run/shard/slice/of`` in one of several slices. What another shard of
the same run has under way is its own business, and so is another slice's: it may be well, and ask the same of a picture
of the same bytes. What other runs left is nobody's any more.
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

from ..atomic_files import write_atomic
from .http.errors import AccountError

State = Literal["asked", "accepted", "cancelled", "done"]


class Store(Protocol):
    """A folder of small files."""

    def names(self) -> Iterable[str]:
        """The files that are there; none where there is no folder."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is gone."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it, so that a crash leaves the old content or the new; back when it is safe."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""


@dataclass(frozen=True)
class LocalStore:
    """A folder on a disk; what is written has reached the disk. ``drafts`` begins the paths of files that are being
    written, where they lie elsewhere, so that whoever cleans up there finds what a crash left."""

    folder: str
    drafts: str = ""

    def names(self) -> Iterable[str]:
        """The files that are there; none where there is no folder."""
        with contextlib.suppress(FileNotFoundError):
            return [name for name in os.listdir(self.folder) if name.endswith(".json")]
        return []

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is gone."""
        with contextlib.suppress(FileNotFoundError):
            return Path(self.folder, name).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it, so that a crash leaves the old content or the new; back when it is safe."""
        write_atomic(Path(self.folder, name), content, self._draft(name))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and the folder with its last one."""
        # A crash may have left a draft.
        self._draft(name).unlink(missing_ok=True)
        Path(self.folder, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)

    def _draft(self, name: str) -> Path:
        return Path(f"{self.drafts or self.folder + os.sep}{name}.draft")


@dataclass(eq=False)
class Entry:
    """One job: the ``places`` hold the request ids in its order, None where a request has its row already."""

    name: str
    endpoint: str
    places: list[str | None]
    state: State = "asked"
    job: str = ""
    answer: Any = None
    units: float = 0.0
    usd: float = 0.0
    estimated: bool = False
    scope: str = ""

    def concerns(self, scope: str) -> bool:
        """Whether this is anybody's business in that scope."""
        run, *asker = scope.split("/")
        its_run, *its = self.scope.split("/")
        return scope in ("", self.scope) or not (its_run == run or _are_slices_of_one(asker[1:], its[1:]))


class Journal:
    """The journal of one API in one store; without a store it remembers nothing."""

    def __init__(self, endpoint: str, store: Store | None) -> None:
        self.endpoint, self.store = endpoint, store
        self._entries: dict[str, Entry] = {}
        self._by_id: dict[str, list[Entry]] = {}
        # Under way in this process, and files of other APIs.
        self._live: set[str] = set()
        self._foreign: set[str] = set()
        self._lock = threading.RLock()

    def refresh(self) -> None:
        """Take up what others wrote: earlier runs, and workers that are gone."""
        if self.store is None:
            return
        with self._lock:
            for name in self.store.names():
                if name not in self._entries and name not in self._foreign:
                    self._load(name)

    def find(self, request_id: str, scope: str = "") -> Entry | None:
        """The job that holds a request, unless it is under way in this very process or in another shard."""
        with self._lock:
            for entry in list(self._by_id.get(request_id, ())):
                if entry.name in self._live:
                    continue
                if entry.state == "done":
                    return entry
                # Its writer may have gone on since it was read.
                if entry.concerns(scope) and (now := self._load(entry.name)) and request_id in now.places:
                    return now
            return None

    def ask(self, ids: Sequence[str], scope: str = "") -> Entry:
        """Note a job that is about to be sent."""
        entry = Entry(f"{uuid.uuid4().hex}.json", self.endpoint, list(ids), scope=scope)
        if self.store is not None:
            with self._lock:
                self._index(entry)
                self._live.add(entry.name)
                self._write(entry)
        return entry

    def note(self, entry: Entry, state: State) -> None:
        """Note how a job is now, with all that its entry holds."""
        with self._lock:
            entry.state = state
            self._write(entry)

    def leave(self, entry: Entry) -> None:
        """Nobody here looks after a job any more: whoever asks for its requests again finds it."""
        with self._lock:
            self._live.discard(entry.name)

    def drop(self, entry: Entry) -> None:
        """Forget a job: it was not paid, or what it holds is asked anew."""
        with self._lock:
            self._live.discard(entry.name)
            self._unindex(entry.name)
            if self.store is not None:
                self.store.remove(entry.name)

    def forget(self, ids: Iterable[str], scope: str = "") -> None:
        """Forget requests that have their rows in this scope."""
        with self._lock:
            told = set(ids)
            found = {entry.name: entry for name in told for entry in self._by_id.get(name, ())}
            for entry in found.values():
                if entry.name in self._live or not entry.concerns(scope):
                    continue
                self._unindex(entry.name)
                entry.places = [None if place in told else place for place in entry.places]
                if any(entry.places):
                    self._index(entry)
                    self._write(entry)
                else:
                    self.drop(entry)

    def _load(self, name: str) -> Entry | None:
        """Read an entry, unless it is another API's or gone."""
        assert self.store is not None
        content = self.store.read(name)
        if content is None:
            self._unindex(name)
            return None
        try:
            entry = Entry(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise RuntimeError(
                f"{name} is no journal of paid jobs: remove it; what it may have held is paid again"
            ) from error
        if entry.endpoint != self.endpoint:
            self._foreign.add(name)
            return None
        self._index(entry)
        return entry

    def _index(self, entry: Entry) -> None:
        self._unindex(entry.name)
        self._entries[entry.name] = entry
        for name in filter(None, entry.places):
            self._by_id.setdefault(name, []).append(entry)

    def _unindex(self, name: str) -> None:
        old = self._entries.pop(name, None)
        for place in filter(None, old.places if old else ()):
            left = [entry for entry in self._by_id.get(place, ()) if entry.name != name]
            if left:
                self._by_id[place] = left
            else:
                self._by_id.pop(place, None)

    def _write(self, entry: Entry) -> None:
        if self.store is None:
            return
        try:
            self.store.write(entry.name, json.dumps(asdict(entry)).encode())
        except OSError as error:
            # Nothing is sent that is not noted.
            raise AccountError(f"can't write the journal of paid jobs: {error}") from error


def _are_slices_of_one(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two are different slices of the same cut, each told by its number and how many there are."""
    return one != other and one[1:] == other[1:] != []
