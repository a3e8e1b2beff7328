"""Ctrl-C while Beam is at work. Beam takes it for an error of the step it hit: logs it, and wraps it in another."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


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


def not_about_interrupts(record: logging.LogRecord) -> bool:
    """A filter for log handlers: somebody who pressed Ctrl-C needs no traceback to know."""
    return not (record.exc_info and was_interrupt(record.exc_info[1]))
