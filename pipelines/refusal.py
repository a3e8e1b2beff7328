"""An API that refuses us while Beam is at work: one line instead of the traceback that Beam makes of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..models.hosted.ends import AccountError
from ..transforms.stop import told_by
from .starting import CannotStartError


@contextlib.contextmanager
def unwrapped_refusals() -> Iterator[None]:
    """Within this block an error that began with an AccountError means that nobody can be asked.

    Raises:
        CannotStartError: instead of it.
    """
    try:
        yield
    except Exception as error:
        if (said := told_by(AccountError, error)) is not None:
            raise CannotStartError(f"{said}; what was answered is kept, and the same command goes on") from error
        raise


def not_about_refusals(record: logging.LogRecord) -> bool:
    """A filter for log handlers: who is told in a line needs no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return told_by(AccountError, error) is None and f"{AccountError.__name__}: " not in record.getMessage()
