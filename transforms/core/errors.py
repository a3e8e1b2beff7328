"""Ends that are no accident: why a run stops before all is done, in one line that reaches whoever started it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ...models.moondream.devices import is_out_of_memory
from ..io.uris import BUCKETS, scheme_of


class RunStopped(RuntimeError):
    """The run can't go on or should not. What it published stays, and the same command goes on from there."""


# What Python says where a thread has no room for its stack.
NO_THREAD = "can't start new thread"


@contextlib.contextmanager
def output_errors(output: str) -> Iterator[None]:
    """Within this block an OSError is the output's: its disk is full, or it can't be reached.

    Beam's clients of buckets raise errors of their own, of no common kind: there it is any error.

    Raises:
        StoppedError: instead of it.
    """
    in_bucket = scheme_of(output) in BUCKETS
    try:
        yield
    except RunStopped:
        raise
    except Exception as error:
        if not in_bucket and not isinstance(error, OSError):
            raise
        told = " ".join(str(error).split())
        raise RunStopped(
            f"stopped: can't write to {output}: {told}; once that is cured the same command goes on"
        ) from error


@contextlib.contextmanager
def out_of_memory_errors() -> Iterator[None]:
    """Within this block an error for want of memory, of whatever kind, ends the run in a line. What a single picture
    is too large for has become a row before.

    Raises:
        StoppedError: instead of it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RunStopped) or not (is_out_of_memory(error) or NO_THREAD in str(error)):
            raise
        raise RunStopped(
            "stopped: this process has no memory left; with fewer --workers or a smaller --batch-size, or more memory,"
            " the same command goes on"
        ) from error


def stop_reason(error: BaseException | None) -> str | None:
    """What a StoppedError said that stands somewhere in this error's chain; None when there is none."""
    return message_of(RunStopped, error)


def message_of(kind: type[Exception], error: BaseException | None) -> str | None:
    """What an error of this kind said that stands somewhere in an error's chain; None when there is none.

    Of an error in a worker process Beam tells no more than its traceback, as text.
    """
    while error is not None:
        if told := re.search(rf"\b{kind.__name__}: (.+)", f"{type(error).__name__}: {error}"):
            return re.sub(r"\s*\[while running .*", "", told[1])
        error = error.__cause__ or error.__context__
    return None
