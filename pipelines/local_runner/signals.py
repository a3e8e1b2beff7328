"""Ends on purpose while Beam is at work: it takes them for errors of the step they hit, logs and wraps them."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Sequence

import grpc

from ...transforms.core.errors import stop_reason

# Ctrl-C, and what schedulers send to those that are to end.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Within this block SIGTERM is what Ctrl-C is: it ends in a line, without tracebacks of workers left alone."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are for the main thread, here that of somebody else's program.
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def unwrapped_interrupts() -> Iterator[None]:
    """Within this block an error that an interrupt caused is that interrupt, and threads of Beam's whose worker process
    is gone end without a word: it is told by whoever watches that."""
    told_before = threading.excepthook

    def tell(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, grpc.RpcError):
            told_before(args)

    threading.excepthook = tell
    try:
        yield
    except Exception as error:
        if was_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        threading.excepthook = told_before


def was_interrupt(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt stands at the beginning of an error's chain."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def worker_death(error: BaseException, lost: Sequence[str] = ()) -> str | None:
    """The line for worker processes that were lost, of which Beam may only know that they say no more; None for other
    errors. ``lost`` tells, for each, what became of it."""
    if not lost and "Channel closed prematurely" not in str(error):
        return None
    what = ", ".join(lost) or "a worker process was killed or crashed, for want of memory perhaps"
    return f"stopped: {what}; what was published stays, and the same command goes on"


def not_about_ends_on_purpose(record: logging.LogRecord) -> bool:
    """A filter for log handlers: who pressed Ctrl-C, or is told the reason in a line, needs no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, grpc.RpcError) and record.name.startswith("apache_beam."):
        # As above.
        return False
    return not was_interrupt(error) and stop_reason(error) is None and "StoppedError: " not in record.getMessage()
