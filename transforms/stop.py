"""Ends that are no accident: why a run stops before all is done, in one line that reaches whoever started it."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator

from ..models.moondream.memory import is_out_of_memory
from .summary import Summary
from .uris import BUCKETS, scheme_of

# Below so many rows a failure rate says nothing yet.
ROWS_BEFORE_STOPPING = 100
# Standard deviations by which failures must pass what is allowed, so that no run stops for a streak of bad luck.
CERTAINTY = 3.0
# Looking is never more than a twentieth of the work, however many shards there are to look at.
WORK_PER_LOOK = 20


class StoppedError(RuntimeError):
    """The run can't go on or should not. What it published stays, and the same command goes on from there."""


# What Python says where a thread has no room for its stack.
NO_THREAD = "can't start new thread"


class TooManyFailures:
    """Raises when a run's failures surely pass what is allowed, looking at ``ROWS_BEFORE_STOPPING`` rows or more.

    ``look`` tells the sums over all of the run that can be seen from here. A rate of 0 allows all: it is about the
    exit status, not about stopping.
    """

    def __init__(self, max_failure_rate: float, look: Callable[[], Summary]) -> None:
        self.limit, self.look = max_failure_rate, look
        self._next_look = 0.0

    def check(self) -> None:
        """Compare.

        Raises:
            StoppedError: the rate is passed.
        """
        started = time.monotonic()
        if not self.limit or started < self._next_look:
            return
        seen = self.look()
        self._next_look = started + WORK_PER_LOOK * (time.monotonic() - started)
        luck = CERTAINTY * math.sqrt(seen.rows * self.limit * (1 - self.limit))
        if seen.rows >= ROWS_BEFORE_STOPPING and seen.failures > self.limit * seen.rows + luck:
            raise StoppedError(
                f"stopped: {seen.failures} of {seen.rows} rows failed, more than the {self.limit:g} of"
                " --max-failure-rate; what was published stays, errors/ says why, and the same command goes on"
            )


@contextlib.contextmanager
def telling_what_failed(output: str) -> Iterator[None]:
    """Within this block an OSError is the output's: its disk is full, or it can't be reached.

    Beam's clients of buckets raise errors of their own, of no common kind: there it is any error.

    Raises:
        StoppedError: instead of it.
    """
    in_bucket = scheme_of(output) in BUCKETS
    try:
        yield
    except StoppedError:
        raise
    except Exception as error:
        if not in_bucket and not isinstance(error, OSError):
            raise
        told = " ".join(str(error).split())
        raise StoppedError(
            f"stopped: can't write to {output}: {told}; once that is cured the same command goes on"
        ) from error


@contextlib.contextmanager
def telling_want_of_memory() -> Iterator[None]:
    """Within this block an error for want of memory, of whatever kind, ends the run in a line. What a single picture
    is too large for has become a row before.

    Raises:
        StoppedError: instead of it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, StoppedError) or not (is_out_of_memory(error) or NO_THREAD in str(error)):
            raise
        raise StoppedError(
            "stopped: this process has no memory left; with fewer --workers or a smaller --batch-size, or more memory,"
            " the same command goes on"
        ) from error


def stop_reason(error: BaseException | None) -> str | None:
    """What a StoppedError said that stands somewhere in this error's chain; None when there is none."""
    return told_by(StoppedError, error)


def told_by(kind: type[Exception], error: BaseException | None) -> str | None:
    """What an error of this kind said that stands somewhere in an error's chain; None when there is none.

    Of an error in a worker process Beam tells no more than its traceback, as text.
    """
    while error is not None:
        if told := re.search(rf"\b{kind.__name__}: (.+)", f"{type(error).__name__}: {error}"):
            return re.sub(r"\s*\[while running .*", "", told[1])
        error = error.__cause__ or error.__context__
    return None
