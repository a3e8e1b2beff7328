"""The file in an output that shows other runs whether a run is alive: one class for local disks, one for buckets.

On a local disk the processes of a run hold a lock on the file. The operating system releases the lock when a process
dies, so a dead run is recognized at once. Buckets have no such locks. There the processes rewrite an object at regular
intervals, and a run whose object is older than ``LEASE_S`` counts as dead.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ...io.object_stores.file_systems import FileSystems
from ..files import exists

try:
    import fcntl

    HAS_FILE_LOCKS = True
except ImportError:  # On Windows a local disk is treated like a bucket.
    HAS_FILE_LOCKS = False

LEASE_S = 120.0
RENEWAL_INTERVAL_S = LEASE_S / 4
RENEWAL_TIMEOUT_S = 10.0


class RunLock(Protocol):
    """The lock of one run in an output, for one process of that run.

    ``path`` is the run's lock file, the same for all its processes. Several processes of the run may hold the lock at
    the same time. The run counts as dead if none of them holds the lock.
    """

    path: str

    def acquire(self, new: bool = False) -> bool:
        """Hold the lock in this process until ``release``. With ``new`` the lock file is created if there is none.

        Returns:
            False if there is no lock file and ``new`` is false: another run has broken the lock.
        """

    def exists(self) -> bool:
        """Return whether the lock file still exists. If not, another run has broken the lock."""

    def is_locked(self) -> bool:
        """Return whether a process of the run holds the lock. Nothing is written to find that out."""

    def hold_alone(self) -> bool:
        """Hold the lock, which this process holds already, so that no other process can acquire it.

        Returns:
            False if another process of the run holds the lock. In a bucket that is unknown, and the result is True.
        """

    def break_if_stale(self, reference: RunLock) -> bool:
        """Delete the lock file if no process holds the lock.

        Args:
            reference: a lock that was acquired a moment ago. In a bucket its time of writing is the present time.

        Returns:
            False if a process holds the lock.
        """

    def release(self) -> None:
        """Stop holding the lock in this process, and leave the lock file there."""

    def remove(self) -> None:
        """Release the lock, then delete the lock file. On a disk the file stays if another process holds the lock."""


class FileLock:
    """A lock on a local disk: an empty file that each process of the run locks with a shared ``flock``."""

    def __init__(self, path: str) -> None:
        self.path, self._file = path, -1

    def acquire(self, new: bool = False) -> bool:
        """Open and lock the file, as other processes may too. Return False if it is missing and not ``new``."""
        while True:
            try:
                self._file = os.open(self.path, os.O_RDWR | (os.O_CREAT if new else 0), 0o666)
            except FileNotFoundError:
                if new:
                    # Another run has ended and deleted the empty folder.
                    os.makedirs(os.path.dirname(self.path), exist_ok=True)
                    continue
                return False
            fcntl.flock(self._file, fcntl.LOCK_SH)
            if self.exists():
                return True
            # Another run deleted the file after this process opened it and before this process locked it.
            self.release()
            if not new:
                return False

    def exists(self) -> bool:
        """Return whether the path still leads to the file that this process has open."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def is_locked(self) -> bool:
        """Return whether a process has locked the file."""
        return not self._if_unlocked(lambda: None)

    def hold_alone(self) -> bool:
        """Lock the file exclusively; return False, with the shared lock held, if another process has locked it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A failed conversion has removed the shared lock.
            fcntl.flock(self._file, fcntl.LOCK_SH)
            return False
        return True

    def break_if_stale(self, reference: RunLock) -> bool:
        """Delete the file unless a process has locked it; return False if one has. ``reference`` is not used."""
        return self._if_unlocked(lambda: os.unlink(self.path))

    def _if_unlocked(self, action: Callable[[], None]) -> bool:
        """Lock the file for this process alone, call ``action`` and unlock the file.

        Returns:
            False if another process has locked the file; True, without a call, if there is no file.
        """
        while True:
            try:
                file = os.open(self.path, os.O_RDWR)
            except FileNotFoundError:
                return True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have deleted the file meanwhile, and its run may have made a new one.
                if os.path.samestat(os.stat(self.path), os.fstat(file)):
                    action()
                    return True
            except BlockingIOError:
                return False
            except FileNotFoundError:
                return True
            finally:
                os.close(file)

    def release(self) -> None:
        """Unlock the file for this process, if it is locked. Other processes keep their locks, and the file stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        """Unlock the file, then delete it unless another process has locked it."""
        self.release()
        self.break_if_stale(self)


class ObjectLock:
    """A lock in a bucket: an object that each process of the run rewrites every ``RENEWAL_INTERVAL_S`` seconds."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._released, self._renewing = threading.Event(), threading.Lock()

    def acquire(self, new: bool = False) -> bool:
        """Write the object, and start a thread that rewrites it until ``release``.

        Return False, without writing, if the object is missing and not ``new``. Other holders are no obstacle.
        """
        if not new and not self.exists():
            return False
        self._write()
        self._released = threading.Event()
        threading.Thread(target=self._renew, args=(self._released,), name="lock", daemon=True).start()
        return True

    def exists(self) -> bool:
        """Return whether the object exists."""
        return exists(self.path)

    def is_locked(self) -> bool:
        """Return whether the object was written within ``LEASE_S``, by the clock of this machine."""
        written = self._written_at()
        return written is not None and time.time() - written < LEASE_S

    def hold_alone(self) -> bool:
        """Return True: the object does not show which processes rewrite it."""
        return True

    def break_if_stale(self, reference: RunLock) -> bool:
        """Delete the object if it is ``LEASE_S`` older than the object of ``reference``; return False if it is not.

        Both times are from the clock of the bucket, so that clocks of machines do not matter.
        """
        written = self._written_at()
        if written is None:
            return True
        if FileSystems.last_updated(reference.path) - written < LEASE_S:
            return False
        FileSystems.delete([self.path])
        return True

    def release(self) -> None:
        """Stop rewriting the object in this process. Wait up to ``RENEWAL_TIMEOUT_S`` for the renewal under way.

        Otherwise that renewal could write the object once more after it was deleted, and block the next run.
        """
        self._released.set()
        if self._renewing.acquire(timeout=RENEWAL_TIMEOUT_S):
            self._renewing.release()

    def remove(self) -> None:
        """Delete the object. Other processes of the run notice before they publish, and stop."""
        self.release()
        if self.exists():
            FileSystems.delete([self.path])

    def _written_at(self) -> float | None:
        """Return when the object was written, in seconds since 1970, or None if there is none."""
        if not self.exists():
            return None
        try:
            return float(FileSystems.last_updated(self.path))
        except Exception:
            # Its run may have ended meanwhile. Each client of a bucket has errors of its own.
            if self.exists():
                raise
            return None

    def _renew(self, released: threading.Event) -> None:
        while not released.wait(RENEWAL_INTERVAL_S):
            # If the bucket is unreachable now, the next renewal may succeed. A deleted object is never written again:
            # another run has broken the lock.
            with contextlib.suppress(Exception), self._renewing:
                if not released.is_set() and self.exists():
                    self._write()

    def _write(self) -> None:
        with FileSystems.create(self.path) as file:
            file.write(b"at work\n")
