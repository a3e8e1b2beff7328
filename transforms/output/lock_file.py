"""The token of a run in an output: how other runs see that it is alive, on a disk and on an object store.

On a disk it is a file that the processes of the run hold locked, so that the system itself tells a dead run from a slow
one, at once. An object store knows no locks: there it is an object that they write anew now and then, and a run counts
as dead after ``LEASE_SECONDS`` of silence.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from apache_beam.io.filesystems import FileSystems

from .files import exists

try:
    import fcntl

    CAN_LOCK = True
except ImportError:  # Windows: a disk is treated as an object store.
    CAN_LOCK = False

LEASE_SECONDS = 120.0
BEAT_SECONDS = LEASE_SECONDS / 4


class RunLock(Protocol):
    """A run's sign in an output, as one process sees it."""

    path: str

    def hold(self, new: bool = False) -> bool:
        """Show that this process is at work. False: the token is gone, and it is not ``new``."""

    def is_there(self) -> bool:
        """Whether nobody has taken this run for dead."""

    def is_held(self) -> bool:
        """Whether a process of its run is at work, as far as can be seen without leaving a sign."""

    def bury(self, by: RunLock) -> bool:
        """Remove the token of a run that is dead; False: it is alive. ``by`` is one that was written just now."""

    def let_go(self) -> None:
        """This process is at work no more."""

    def remove(self) -> None:
        """Let go, and remove the token unless other processes of its run are still at work."""


class FileLock:
    """A file that is locked by whoever is at work, shared with the others of its run."""

    def __init__(self, path: str) -> None:
        self.path, self._file = path, -1

    def hold(self, new: bool = False) -> bool:
        """Lock it, together with others of this run."""
        while True:
            try:
                self._file = os.open(self.path, os.O_RDWR | (os.O_CREAT if new else 0), 0o666)
            except FileNotFoundError:
                if new:
                    # Another run at its end has removed the folder.
                    os.makedirs(os.path.dirname(self.path), exist_ok=True)
                    continue
                return False
            fcntl.flock(self._file, fcntl.LOCK_SH)
            if self.is_there():
                return True
            # Another run looked before it was locked, and buried it.
            self.let_go()
            if not new:
                return False

    def is_there(self) -> bool:
        """Whether the locked file still has its name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def is_held(self) -> bool:
        """Whether somebody has locked it."""
        return not self._if_free(lambda: None)

    def bury(self, by: RunLock) -> bool:
        """Remove it if nobody has locked it."""
        return self._if_free(lambda: os.unlink(self.path))

    def _if_free(self, action: Callable[[], None]) -> bool:
        """Whether it is gone, or nobody has locked it; then this is done, and nobody can lock it meanwhile."""
        try:
            file = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            action()
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(file)

    def let_go(self) -> None:
        """Unlock it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """Unlock it, and remove it if nobody else has locked it."""
        self.let_go()
        self.bury(self)


class ObjectLock:
    """An object that is written anew every ``BEAT_SECONDS`` by whoever is at work."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._over = threading.Event()

    def hold(self, new: bool = False) -> bool:
        """Write it, and go on doing so in a thread."""
        if not new and not self.is_there():
            return False
        self._write()
        self._over = threading.Event()
        threading.Thread(target=self._beat, args=(self._over,), name="lease", daemon=True).start()
        return True

    def is_there(self) -> bool:
        """Whether the object is there."""
        return exists(self.path)

    def is_held(self) -> bool:
        """Whether it was written within ``LEASE_SECONDS``, by this machine's clock."""
        return self.is_there() and time.time() - FileSystems.last_updated(self.path) < LEASE_SECONDS

    def bury(self, by: RunLock) -> bool:
        """Remove it if it has not been written for ``LEASE_SECONDS``, on the store's own clock."""
        if not self.is_there():
            return True
        if FileSystems.last_updated(by.path) - FileSystems.last_updated(self.path) < LEASE_SECONDS:
            return False
        FileSystems.delete([self.path])
        return True

    def let_go(self) -> None:
        """Write it no more."""
        self._over.set()

    def remove(self) -> None:
        """Write it no more, and delete it. Who is still at work finds it gone before it publishes."""
        self.let_go()
        if self.is_there():
            FileSystems.delete([self.path])

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT_SECONDS):
            # A store that can't be reached now may be reached at the next beat; a token that is gone stays gone.
            with contextlib.suppress(Exception):
                if self.is_there():
                    self._write()

    def _write(self) -> None:
        with FileSystems.create(self.path) as file:
            file.write(b"at work\n")
