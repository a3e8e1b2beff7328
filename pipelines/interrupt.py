"""Ends on purpose while Beam is at work: it takes them for errors of the step they hit, logs and wraps them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..transforms.stop import stop_reason


@contextlib.contextmanager
def unwrapped_interrupts() -> Iterator[None]:
    """Within this block an error that an interrupt caused is that interrupt."""
    try:
        yield
    except Exception as error:
        if was_interrupt(error):
            raise KeyboardInterrupt from error
        raise


def was_interrupt(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt stands at the beginning of an error's chain."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def worker_death(error: BaseException) -> str | None:
    """The line for a worker process that is gone, of which Beam only knows that it says no more; None for the rest."""
    if "Channel closed prematurely" not in str(error):
        return None
    return (
        "stopped: a worker process was killed or crashed, for want of memory perhaps; what was published stays, and the"
        " same command goes on"
    )


def not_about_ends_on_purpose(record: logging.LogRecord) -> bool:
    """A filter for log handlers: who pressed Ctrl-C, or is told the reason in a line, needs no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return not was_interrupt(error) and stop_reason(error) is None and "StoppedError: " not in record.getMessage()
