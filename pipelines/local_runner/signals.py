"""Interrupts and expected failures while Beam runs, reported in one line instead of Beam's tracebacks."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Sequence

import grpc

from ...transforms.core.errors import RunStopped, stop_reason

# Ctrl-C, and the signal that schedulers send to stop a process.
INTERRUPT_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def sigterm_as_keyboard_interrupt() -> Iterator[None]:
    """Within this block, raise KeyboardInterrupt on SIGTERM. Outside of the main thread, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        # Python allows signal handlers in the main thread only. Here another program calls the command in a thread.
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def unwrap_keyboard_interrupt() -> Iterator[None]:
    """Within this block, raise KeyboardInterrupt in place of an error that an interrupt caused.

    gRPC errors that end a thread print no traceback within this block. They occur in Beam's threads when a worker
    process is gone, and ``worker_loss_reason`` reports that process.

    Raises:
        KeyboardInterrupt: if the block raises an error with a KeyboardInterrupt in its chain.
    """
    hook_before = threading.excepthook

    def print_unless_grpc(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, grpc.RpcError):
            hook_before(args)

    threading.excepthook = print_unless_grpc
    try:
        yield
    except Exception as error:
        if caused_by_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        threading.excepthook = hook_before


def caused_by_interrupt(error: BaseException | None) -> bool:
    """Return whether the error, or an error in its chain of causes and contexts, is a KeyboardInterrupt."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def worker_loss_reason(error: BaseException, dead_workers: Sequence[str] = ()) -> str | None:
    """Return the message for a run that failed because worker processes died or hung.

    Args:
        error: the error that the run raised.
        dead_workers: a phrase for each lost process, such as "worker_1 ended with status 3". It may be empty.

    Returns:
        None if ``dead_workers`` is empty and ``error`` is not about a lost worker process either.
    """
    if not dead_workers and "Channel closed prematurely" not in str(error):
        return None
    what = ", ".join(dead_workers) or "a worker process was killed or crashed (possibly out of memory)"
    return f"stopped: {what}. Committed rows are kept. Run the same command again to resume."


class ExpectedExitFilter(logging.Filter):
    """Drop log records about failures that the command reports in one line of its own.

    They are records about an interrupt, records about RunStopped, and Beam's records about a gRPC error.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for such a record, and True for any other."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, grpc.RpcError) and record.name.startswith("apache_beam."):
            # The worker process is gone, and ``worker_loss_reason`` reports it.
            return False
        expected = caused_by_interrupt(error) or stop_reason(error) is not None
        return not expected and f"{RunStopped.__name__}: " not in record.getMessage()
