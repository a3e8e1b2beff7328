"""Interrupts and expected failures while Beam runs, reported in one line instead of Beam's tracebacks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from ...transforms.core.errors import INTERRUPTED, RunStopped, stop_reason

# Ctrl-C, and the signal that schedulers send to stop a process.
INTERRUPT_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# What Beam's local runner and Prism report if a worker process is gone. The last one is a panic of Prism, if it gives
# such a worker one more bundle.
LOST_WORKER = re.compile(r"Channel closed prematurely|SDK worker disconnected|panic in .*send on closed channel")
# Part of the text of every error of gRPC.
RPC_ERROR = "of RPC that terminated with"

# Set if threads may still be at work in PyTorch or gRPC when the command ends. The usual end of Python would abort
# beneath these threads, so the process must exit without it.
MUST_EXIT = threading.Event()

# Called by the first signal, before KeyboardInterrupt is raised.
ON_INTERRUPT: list[Callable[[], object]] = [INTERRUPTED.set]
# The signals that wait for the end of ``interrupts_held``; None outside of it.
_HELD: list[list[int] | None] = [None]


class Interrupt(KeyboardInterrupt):
    """SIGINT or SIGTERM. The text is the name of the signal.

    Attributes:
        status: the exit status of a process that the signal ends: 130 or 143.
        message: what the user is told.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number
        self.message = "interrupted: run the same command again to resume"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within this block, raise Interrupt on the first SIGINT or SIGTERM, and end the process on the second.

    Outside of the main thread, do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python allows signal handlers in the main thread only. Here another program calls the command in a thread.
        yield
        return
    before = [signal.signal(number, _interrupt) for number in INTERRUPT_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(INTERRUPT_SIGNALS, before, strict=True):
            signal.signal(number, handler)
        INTERRUPTED.clear()


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Within this block, hold signals that ``interruptible`` handles, and handle the first of them at its end.

    An exception in the middle of ``Popen`` would leave a process that nobody knows. To block the signals would not do,
    because the system then gives them to another thread, and Python calls the handler in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = _HELD[0] = list[int]()
    try:
        yield
    finally:
        _HELD[0] = None
        if held:
            _interrupt(held[0], None)


def _interrupt(number: int, _: FrameType | None) -> None:
    if (held := _HELD[0]) is not None:
        held.append(number)
        return
    if INTERRUPTED.is_set():
        os._exit(128 + number)
    # A copy, because the threads that watch worker processes shorten the list.
    for callback in tuple(ON_INTERRUPT):
        callback()
    raise Interrupt(number)


def handle_sigint_again() -> Any:
    """Within ``interruptible``, handle SIGINT as at its start if another handler has replaced that of this module.

    Returns:
        The other handler, or None if there was no other one.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is _interrupt or signal.getsignal(signal.SIGTERM) is not _interrupt:
        return None
    signal.signal(signal.SIGINT, _interrupt)
    return handler


@contextlib.contextmanager
def unwrap_keyboard_interrupt() -> Iterator[None]:
    """Within this block, raise KeyboardInterrupt in place of an error that an interrupt caused.

    gRPC errors that end a thread print no traceback within this block. They occur in Beam's threads when a worker
    process is gone, and ``worker_loss_reason`` reports that process.

    Raises:
        KeyboardInterrupt: if the block raises an error with a KeyboardInterrupt in its chain.
    """
    with no_grpc_tracebacks():
        try:
            yield
        except Exception as error:
            if interrupt := caused_by_interrupt(error):
                raise interrupt from error
            raise


@contextlib.contextmanager
def no_grpc_tracebacks() -> Iterator[None]:
    """Within this block, print no traceback of a gRPC error that ends a thread."""
    hook_before = threading.excepthook

    def print_unless_grpc(args: threading.ExceptHookArgs) -> None:
        if not is_rpc_error(args.exc_value):
            hook_before(args)

    threading.excepthook = print_unless_grpc
    try:
        yield
    finally:
        threading.excepthook = hook_before


def caused_by_interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt in an error's chain of causes and contexts, or None if there is none."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


def is_rpc_error(error: BaseException | None) -> bool:
    """Return whether an error is a ``grpc.RpcError``. gRPC is not imported here: most commands start without it."""
    return any((each.__module__, each.__name__) == ("grpc", "RpcError") for each in type(error).__mro__)


def worker_loss_reason(error: BaseException, dead_workers: Sequence[str] = ()) -> str | None:
    """Return the message for a run that failed because worker processes died or hung.

    Args:
        error: the error that the run raised.
        dead_workers: a phrase for each lost process, such as "worker_1 ended with status 3". It may be empty.

    Returns:
        None if ``dead_workers`` is empty and ``error`` is not about a lost worker process either.
    """
    if not dead_workers and not LOST_WORKER.search(str(error)):
        return None
    what = ", ".join(dead_workers) or "a worker process was killed or crashed (possibly out of memory)"
    return f"stopped: {what}. Committed rows are kept. Run the same command again to resume."


class ExpectedExitFilter(logging.Filter):
    """Drop log records about failures that the command reports in one line of its own.

    They are records about an interrupt, records about RunStopped, and Beam's records about a worker that is gone.
    Beam logs what a job service reports to the root logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for such a record, and True for any other."""
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.getMessage()} {error}"
        if record.name.startswith(("apache_beam.", "root")) and (
            INTERRUPTED.is_set() or is_rpc_error(error) or LOST_WORKER.search(text) or RPC_ERROR in text
        ):
            # The worker process or the job service is gone, and ``worker_loss_reason`` reports it. After a signal,
            # bundles fail in many ways.
            return False
        expected = caused_by_interrupt(error) is not None or stop_reason(error) is not None
        return not expected and f"{RunStopped.__name__}: " not in text
