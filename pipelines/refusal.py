"""An API that refuses us while Beam is at work: one line instead of the traceback that Beam makes of it."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

from ..models.hosted.ends import AccountError
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
        if (said := refusal_of(error)) is not None:
            raise CannotStartError(f"{said}; what was answered is kept, and the same command goes on") from error
        raise


def refusal_of(error: BaseException | None) -> str | None:
    """What an AccountError said that stands somewhere in this error's chain; None when there is none.

    Of an error in a worker process Beam tells no more than its traceback, as text.
    """
    while error is not None:
        if told := re.search(rf"\b{AccountError.__name__}: (.+)", f"{type(error).__name__}: {error}"):
            return re.sub(r"\s*\[while running .*", "", told[1])
        error = error.__cause__ or error.__context__
    return None


def not_about_refusals(record: logging.LogRecord) -> bool:
    """A filter for log handlers: who is told in a line needs no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    return refusal_of(error) is None and f"{AccountError.__name__}: " not in record.getMessage()
