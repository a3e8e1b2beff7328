"""End the Python workers of a job with their answers kept.

Spark kills the Python workers of a job that is cancelled with SIGKILL, which no process can handle. So the driver first
creates a file that all Python workers look for. If an executor ends, the Python workers get SIGHUP.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ...transforms.annotation.run_end import GRACE_S
from ...transforms.core.errors import INTERRUPTED, RunStopped
from ...transforms.output.answer_journal import OPEN_JOURNALS
from ...transforms.output.commit import create_exclusive, delete_exclusive
from ...transforms.output.files import exists
from ...transforms.output.layout import stop_path

# Seconds between two looks for the file. In a bucket each look is a request.
POLL_S = 1.0
# Seconds in which all Python workers have kept their answers after the file was created: a look, the time for requests
# in flight, and the time to write the answers.
STOP_S = POLL_S + GRACE_S + 5.0


def request_stop(output: str, run: str) -> None:
    """Ask the Python workers of a run to keep what they have answered, and to end their tasks.

    A file that cannot be created is no error: the answers since the last checkpoint are lost then.
    """
    # Each client of a bucket has errors of its own.
    with contextlib.suppress(Exception):
        create_exclusive(stop_path(output, run), b"stop")


def withdraw_stop(output: str, run: str) -> None:
    """Delete the file of ``request_stop``, if there is one."""
    delete_exclusive(stop_path(output, run))


@contextlib.contextmanager
def stop_on_request(output: str, run: str) -> Iterator[None]:
    """Within this block, keep the answers of this Python worker if the run must stop or the executor ends.

    ``INTERRUPTED`` is set once the driver has asked the run to stop, before the block or within. A ``RunStopped`` of
    the block then ends the block without an error: Spark would log a failed task with its traceback, and try it again.
    """
    INTERRUPTED.clear()
    if _is_stop_requested(output, run):
        INTERRUPTED.set()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, _on_hangup)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(output, run, ended), name="stop", daemon=True).start()
    try:
        yield
    except RunStopped:
        if not INTERRUPTED.is_set():
            raise
    finally:
        ended.set()


def _watch(output: str, run: str, ended: threading.Event) -> None:
    while not ended.wait(POLL_S):
        if _is_stop_requested(output, run):
            INTERRUPTED.set()
            OPEN_JOURNALS.flush(GRACE_S)
            return


def _is_stop_requested(output: str, run: str) -> bool:
    """Return whether the file is there; False also if the output cannot be read, which other steps report."""
    try:
        return exists(stop_path(output, run))
    except Exception:
        return False


def _on_hangup(number: int, _: FrameType | None) -> None:
    # In a thread, because the main thread may hold the lock of a journal.
    threading.Thread(target=_end, args=(128 + number,), name="hangup").start()


def _end(status: int) -> None:
    """Keep the answers of this process, and exit at once: the lock of the output must be free for the next run."""
    try:
        OPEN_JOURNALS.flush(0)
    finally:
        os._exit(status)
