"""One run at a time in an output, or slices of one cut: each leaves a token there, and looks for those of others.

Two that begin at once see each other, since each writes before it looks. A run that was taken for dead has no token any
more, and can't publish: whoever has the output need not fear it.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator

from apache_beam.io.filesystems import FileSystems

from ..core.errors import RunStopped
from .files import glob_files, is_local, make_folder, remove_temporary_folder, temporary_folder
from .layout import Slice, can_run_together, run_of_file
from .lock_file import CAN_LOCK, LEASE_SECONDS, FileLock, ObjectLock, RunLock

# Of two that begin at once both withdraw, and try again after pauses of their own.
CLAIM_ATTEMPTS, CLAIM_PAUSE = 4, 0.4
SUFFIX = ".lock"


class OutputLockedError(ValueError):
    """Another run is at work in this output."""


@contextlib.contextmanager
def run_lock(output: str, run: str) -> Iterator[None]:
    """Within this block the output is this run's, and it leaves no token behind.

    Raises:
        TakenError: another run is at work there.
    """
    token = _claim(output, run)
    try:
        yield
    finally:
        _remove(token, output)


def acquire(output: str, run: str) -> None:
    """Make the output this run's, unless it is so already; what dead runs left in ``_temporary`` is removed.

    Raises:
        TakenError: another run is at work there.
    """
    _claim(output, run).let_go()


@contextlib.contextmanager
def worker_lock(output: str, run: str) -> Iterator[RunLock]:
    """Within this block other runs see that this one is at work.

    Raises:
        StoppedError: another run took this one for dead, and may be at work.
    """
    token = _token(output, run)
    if not token.hold():
        raise lock_lost(output, run)
    try:
        yield token
    finally:
        token.let_go()


@contextlib.contextmanager
def keep_alive(output: str, run: str) -> Iterator[None]:
    """Within this block other runs see that this one is at work, if it has a token; without one it goes on all the
    same, since it writes nothing."""
    token = _token(output, run)
    # Whoever reads a store that is out of order finds that out by itself.
    with contextlib.suppress(Exception):
        token.hold()
    try:
        yield
    finally:
        token.let_go()


def at_work(output: str) -> list[str]:
    """The runs that are at work in an output, as far as can be seen from here."""
    return [run for run in _runs(output) if _token(output, run).is_held()]


def lock_lost(output: str, run: str) -> RunStopped:
    """What a run whose token is gone has to say."""
    return RunStopped(f"stopped: run {run} has no token in {output}; another run took it for dead, or is elsewhere")


def release(output: str, run: str) -> None:
    """Remove this run's token, unless processes of it are still at work."""
    _remove(_token(output, run), output)


def _claim(output: str, run: str) -> RunLock:
    token = _token(output, run)
    if token.hold():
        return token
    for attempt in range(CLAIM_ATTEMPTS):
        make_folder(temporary_folder(output))
        token.hold(new=True)
        # Before the tokens: what a run has here that comes to life in between is not among them.
        left = _entries(output)
        # A list, so that all the dead are buried.
        others = [other for other in _runs(output) if other != run and not _token(output, other).bury(token)]
        alive = [other for other in others if not can_run_together(run, other)]
        if not alive and token.is_there():
            _clean(output, [name for name in left if _is_litter(name, run, alone=not others)])
            return token
        _remove(token, output)
        if attempt + 1 < CLAIM_ATTEMPTS:
            time.sleep(CLAIM_PAUSE * (0.5 + random.random()))
    raise _taken(output, alive or [run])


def _taken(output: str, runs: list[str]) -> OutputLockedError:
    several = len(runs) > 1
    who = f"{'runs' if several else 'run'} {', '.join(sorted(runs))} {'are' if several else 'is'} at work there"
    wait = "" if _locks(output) else f"; if {'one' if several else 'it'} is dead, wait {LEASE_SECONDS:.0f} seconds"
    return OutputLockedError(f"output {output}: {who}, wait for {'their' if several else 'its'} end{wait}")


def _remove(token: RunLock, output: str) -> None:
    token.remove()
    remove_temporary_folder(output)


def _entries(output: str) -> list[str]:
    """The names in ``_temporary`` of all but tokens."""
    if is_local(output):
        names = os.listdir(temporary_folder(output))
    else:
        names = [FileSystems.split(path)[1] for path in glob_files(FileSystems.join(temporary_folder(output), "*"))]
    return [name for name in names if not name.endswith(SUFFIX)]


def _is_litter(name: str, run: str, *, alone: bool) -> bool:
    """Whether nobody will want it any more: not what an earlier attempt of this very run has there, and, while other
    slices are at work, only what dead runs of the same slice left."""
    if name.startswith((f"part-{run}-", f"{run}.")):
        return False
    return alone or Slice.from_run_name(run_of_file(name) or name.split(".")[0]) == Slice.from_run_name(run)


def _clean(output: str, names: list[str]) -> None:
    paths = [FileSystems.join(temporary_folder(output), name) for name in names]
    if is_local(output):
        for path in paths:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
    elif paths:
        FileSystems.delete(paths)


def _runs(output: str) -> list[str]:
    paths = glob_files(FileSystems.join(temporary_folder(output), "*" + SUFFIX))
    return [FileSystems.split(path)[1].removesuffix(SUFFIX) for path in paths]


def _path(output: str, run: str) -> str:
    return FileSystems.join(temporary_folder(output), run + SUFFIX)


def _locks(output: str) -> bool:
    return CAN_LOCK and is_local(output)


def _token(output: str, run: str) -> RunLock:
    path = _path(output, run)
    return FileLock(path) if _locks(output) else ObjectLock(path)
