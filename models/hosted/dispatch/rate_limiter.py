"""The manners of one worker towards an API: when to call, how often, and when to leave it alone."""

from __future__ import annotations

import threading
import time

from ...backoff import backoff

INITIAL_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
FAILURES_TO_OPEN = 8
OPEN_S, LONGEST_OPEN_S = 30.0, 480.0


class Clock:
    """Seconds, and the waiting for them; tests have one that does not wait."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def retry_delay(attempts: int) -> float:
    """Return the random seconds to wait after ``attempts`` failed attempts: below 1 after the first, never above 30."""
    return backoff(attempts, INITIAL_BACKOFF_S, MAX_BACKOFF_S)


class RateLimiter:
    """Gate, circuit breaker and limit on jobs in flight, shared by all streams of a process.

    The gate: whoever is throttled closes it for all. The limit: halved when throttled, one more for each job that
    ends well. The breaker: after ``FAILURES_TO_OPEN`` calls in a row that failed, or jobs, nothing is sent for a while,
    which doubles; then one job at a time, until one succeeds.
    """

    def __init__(self, clock: Clock, most_in_flight: int) -> None:
        self.clock, self.most_in_flight = clock, most_in_flight
        self.in_flight = 0
        self._limit = float(most_in_flight)
        self._gate_until = self._open_until = float("-inf")
        self._calls_failed = self._jobs_failed = self._throttles = 0
        self._failing_since: float | None = None
        self._open_s = OPEN_S
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        """How many jobs may be in flight."""
        return 1 if self._is_failing else max(1, int(self._limit))

    @property
    def _is_failing(self) -> bool:
        return max(self._calls_failed, self._jobs_failed) >= FAILURES_TO_OPEN

    @property
    def has_room(self) -> bool:
        """Whether a job would be let pass now."""
        return self.in_flight < self.limit and not self.wait()

    def wait(self) -> float:
        """Seconds until the gate and the breaker let a job pass; 0 is now."""
        with self._lock:
            return max(0.0, max(self._gate_until, self._open_until) - self.clock.now())

    def enter(self) -> bool:
        """Take a place among the jobs in flight, if there is one and gate and breaker are open."""
        with self._lock:
            now = self.clock.now()
            if now < self._gate_until or now < self._open_until or self.in_flight >= self.limit:
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self.in_flight -= 1

    def throttled(self, retry_after: float | None) -> float:
        """Close the gate for all, for as long as the API asks or longer; the seconds."""
        with self._lock:
            self._throttles += 1
            self._failing_since = self.clock.now() if self._failing_since is None else self._failing_since
            self._limit = max(1.0, self._limit / 2)
            seconds = max(retry_after or 0.0, retry_delay(self._throttles))
            self._gate_until = max(self._gate_until, self.clock.now() + seconds)
            return seconds

    def failed(self, job: bool = False) -> None:
        """Count a call that failed, or a job; leave the API alone where it was one too many."""
        with self._lock:
            now = self.clock.now()
            self._calls_failed += not job
            self._jobs_failed += job
            if self._failing_since is None:
                self._failing_since = now
            if self._is_failing and now >= self._open_until:
                self._open_until = now + self._open_s
                self._open_s = min(LONGEST_OPEN_S, 2 * self._open_s)

    def answered(self) -> None:
        """A call was answered: the API is there."""
        with self._lock:
            self._calls_failed = 0
            if self._jobs_failed < FAILURES_TO_OPEN:
                self._close()

    def succeeded(self) -> None:
        """A job ended well: the API works."""
        with self._lock:
            self._calls_failed = self._jobs_failed = self._throttles = 0
            self._limit = min(float(self.most_in_flight), self._limit + 1)
            self._close()

    def _close(self) -> None:
        self._failing_since = None
        self._open_until, self._open_s = float("-inf"), OPEN_S

    def failing_s(self) -> float:
        """For how long the API has failed or throttled us many times in a row; 0: it does not."""
        with self._lock:
            is_bad = self._is_failing or self._throttles >= FAILURES_TO_OPEN
            return self.clock.now() - self._failing_since if is_bad and self._failing_since is not None else 0.0
