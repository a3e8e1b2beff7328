"""Lock an output for one run, or for runs of different slices of the same number of slices.

Each run writes a lock file first and looks for lock files of other runs after that. Of two runs that begin at the same
moment, at least one therefore sees the other. A run whose lock was broken by another run cannot publish any more.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Collection, Iterator

from ...core.errors import RunStopped
from ...io.object_stores.file_systems import FileSystems
from ..files import glob_files, is_local, make_folder, remove_temporary_folder
from ..layout import (
    AnswerFile,
    can_run_together,
    draft_time,
    lock_path,
    run_of_lock,
    run_of_temporary_file,
    temporary_folder,
)
from .lock_file import HAS_FILE_LOCKS, LEASE_S, FileLock, ObjectLock, RunLock

# Two runs that begin at the same moment both withdraw and try again, each after a random delay.
MAX_ATTEMPTS, RETRY_DELAY_S = 4, 0.4
# A command without a run, such as `report`, writes its draft within minutes. An older draft is from a dead command.
MAX_DRAFT_AGE_S = 24 * 60 * 60


class OutputLockedError(ValueError):
    """Another run holds the lock of this output."""


@contextlib.contextmanager
def run_lock(output: str, run: str) -> Iterator[RunLock]:
    """Hold the lock of an output for a run while the block runs, then delete the lock file.

    On a local disk the file stays if another process of the run holds the lock then.

    Raises:
        OutputLockedError: if another run holds the lock.
    """
    lock = _acquire(output, run)
    try:
        yield lock
    finally:
        _remove(lock, output)


def acquire(output: str, run: str) -> None:
    """Create the lock file of a run, and delete what dead runs left in ``_temporary``.

    The lock file stays, but this process does not hold the lock afterwards: ``worker_lock`` holds it. Until then other
    runs may take this run for dead. If the run already has a lock file, nothing is deleted.

    Raises:
        OutputLockedError: if a process of another run, which must not run together with this one, holds its lock.
    """
    _acquire(output, run).release()


@contextlib.contextmanager
def worker_lock(output: str, run: str) -> Iterator[RunLock]:
    """Hold the lock of an output in a worker of the run that acquired the lock, while the block runs.

    Raises:
        RunStopped: if the lock file is gone, because another run has broken the lock.
    """
    lock = _lock_of(output, run)
    if not lock.acquire():
        raise lock_lost(output, run)
    try:
        yield lock
    finally:
        lock.release()


@contextlib.contextmanager
def keep_alive(output: str, run: str) -> Iterator[None]:
    """Hold the lock of an output in a process that only reads, while the block runs.

    A lock that is gone or cannot be reached is no error, because this process writes nothing.
    """
    lock = _lock_of(output, run)
    with contextlib.suppress(Exception):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def active_runs(output: str) -> list[str]:
    """Return the runs whose locks are held now. In a bucket a dead run counts for up to ``LEASE_S`` seconds."""
    return [run for run in begun_runs(output) if _lock_of(output, run).is_locked()]


def begun_runs(output: str) -> list[str]:
    """Return the runs that have a lock file, dead or alive."""
    names = (FileSystems.split(path)[1] for path in glob_files(lock_path(output, "*")))
    return [run for name in names if (run := run_of_lock(name))]


def lock_lost(output: str, run: str) -> RunStopped:
    """Return the error of a run whose lock file is gone."""
    return RunStopped(
        f"stopped: run {run} has no lock in {output}, because another run took it for dead or {output} is not shared by"
        " all workers. Run the same command again to resume."
    )


def wait_alone(lock: RunLock, timeout_s: float) -> bool:
    """Wait until no other process of the run holds the lock that this process holds. Then hold it exclusively.

    Returns:
        False if another process still holds it after ``timeout_s`` seconds.
    """
    end = time.monotonic() + timeout_s
    while not lock.hold_alone():
        if time.monotonic() >= end:
            return False
        time.sleep(RETRY_DELAY_S)
    return True


def delete_temporary_files(output: str, run: str) -> None:
    """Delete what a run has left in ``_temporary``, but not its lock file. Nothing may need these files any more."""
    if not is_local(output) or os.path.isdir(temporary_folder(output)):
        _delete(output, [name for name in _temporary_files(output) if run_of_temporary_file(name) == run])


def release(output: str, run: str) -> None:
    """Delete the lock file of a run. On a local disk the file stays if a process of the run holds the lock."""
    _remove(_lock_of(output, run), output)


def _acquire(output: str, run: str) -> RunLock:
    """Return the lock of a run, held by this process."""
    lock = _lock_of(output, run)
    if lock.acquire():
        return lock
    for attempt in range(MAX_ATTEMPTS):
        make_folder(temporary_folder(output))
        lock.acquire(new=True)
        # Listed before the locks, so that no file of a run that begins in between is deleted.
        names = _temporary_files(output)
        # A list, not a generator: every stale lock must be broken.
        active = [
            other for other in begun_runs(output) if other != run and not _lock_of(output, other).break_if_stale(lock)
        ]
        blocking = [other for other in active if not can_run_together(run, other)]
        if not blocking and lock.exists():
            _delete(output, [name for name in names if _is_stale(name, (run, *active))])
            return lock
        _remove(lock, output)
        if attempt + 1 < MAX_ATTEMPTS:
            time.sleep(RETRY_DELAY_S * (0.5 + random.random()))
    raise _locked_error(output, blocking or [run])


def _locked_error(output: str, runs: list[str]) -> OutputLockedError:
    holders = f"run {runs[0]} is" if len(runs) == 1 else f"runs {', '.join(sorted(runs))} are"
    wait = "" if _uses_file_locks(output) else f" If it has died, its lock expires after {LEASE_S:.0f} seconds."
    return OutputLockedError(
        f"output {output}: {holders} writing to it. Wait until it ends, or choose another output.{wait}"
    )


def _remove(lock: RunLock, output: str) -> None:
    lock.remove()
    remove_temporary_folder(output)


def _temporary_files(output: str) -> list[str]:
    """Return the names of all files and folders in ``_temporary`` that are not locks."""
    if is_local(output):
        names = os.listdir(temporary_folder(output))
    else:
        names = [FileSystems.split(path)[1] for path in _objects(output)]
    return [name for name in names if not run_of_lock(name)]


def _objects(output: str) -> list[str]:
    return glob_files(FileSystems.join(temporary_folder(output), "*"))


def _is_stale(name: str, runs: Collection[str]) -> bool:
    """Return whether a file in ``_temporary`` may be deleted. ``runs`` are this run and all other active runs.

    Files of the answer journal may not: ``publish_kept`` publishes their rows, and then deletes the files.
    A file of another run may, and so may a draft older than ``MAX_DRAFT_AGE_S`` of a command without a run. A file
    whose name contains neither a run nor a time is not ours: Spark and Hadoop have folders of this name too.
    """
    if AnswerFile.parse(name):
        return False
    if owner := run_of_temporary_file(name):
        return owner not in runs
    begun = draft_time(name)
    return begun is not None and time.time() - begun > MAX_DRAFT_AGE_S


def _delete(output: str, names: list[str]) -> None:
    paths = [FileSystems.join(temporary_folder(output), name) for name in names]
    if is_local(output):
        for path in paths:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    elif paths:
        try:
            FileSystems.delete(paths)
        except OSError:
            # Another run may delete the same files at the same moment.
            if set(paths) & set(_objects(output)):
                raise


def _uses_file_locks(output: str) -> bool:
    return HAS_FILE_LOCKS and is_local(output)


def _lock_of(output: str, run: str) -> RunLock:
    path = lock_path(output, run)
    return FileLock(path) if _uses_file_locks(output) else ObjectLock(path)
