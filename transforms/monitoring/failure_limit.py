"""Stop a run whose failure rate is above the limit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..core.errors import RunStopped
from ..core.summary import Summary

# A failure rate over fewer rows says little about the run.
MIN_ROWS = 100
# How many standard deviations the failures must be above the limit, so that bad luck does not stop a run.
MIN_DEVIATIONS = 3.0
# Time between two reads, in durations of the last read: reading takes at most 1/20 of the time, however many shards.
MIN_PAUSE = 20


class FailureLimit:
    """Stops a run if its failure rate is above ``max_rate`` by more than chance. A rate of 0 means no limit.

    ``read_summary`` returns the sums over all rows of the run that this process can see.
    """

    def __init__(self, max_rate: float, read_summary: Callable[[], Summary]) -> None:
        self.max_rate, self.read_summary = max_rate, read_summary
        self._next_read = 0.0

    def check(self) -> None:
        """Read the sums and compare them with the limit, unless the last read was too recent.

        Raises:
            RunStopped: if there are at least ``MIN_ROWS`` rows, and the failures exceed ``max_rate`` of the rows by
                more than ``MIN_DEVIATIONS`` standard deviations.
        """
        started = time.monotonic()
        if not self.max_rate or started < self._next_read:
            return
        summary = self.read_summary()
        self._next_read = started + MIN_PAUSE * (time.monotonic() - started)
        deviation = math.sqrt(summary.rows * self.max_rate * (1 - self.max_rate))
        allowed = self.max_rate * summary.rows + MIN_DEVIATIONS * deviation
        if summary.rows >= MIN_ROWS and summary.failures > allowed:
            raise RunStopped(
                f"stopped: {summary.failures} of {summary.rows} rows failed, more than --max-failure-rate"
                f" {self.max_rate:g} allows. Read the reasons in errors/. Run the same command again to resume, with"
                " --retry-errors to retry the failed rows too."
            )
