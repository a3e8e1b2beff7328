"""Stop a run whose failure rate is above the limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..core.errors import RunStopped
from ..core.summary import Summary

# Below so many rows a failure rate says nothing yet.
ROWS_BEFORE_STOPPING = 100


# Standard deviations by which failures must pass what is allowed, so that no run stops for a streak of bad luck.
CERTAINTY = 3.0


# Looking is never more than a twentieth of the work, however many shards there are to look at.
WORK_PER_LOOK = 20


class FailureLimit:
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
            raise RunStopped(
                f"stopped: {seen.failures} of {seen.rows} rows failed, more than the {self.limit:g} of"
                " --max-failure-rate; what was published stays, errors/ says why, and the same command goes on"
            )
