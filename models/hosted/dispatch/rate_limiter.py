"""The rate limiter of one API in a worker process: pauses, a circuit breaker, and a limit on jobs in flight."""

from __future__ import annotations

import threading
import time

from ...web.backoff import backoff
from ..service import EndedCalls

INITIAL_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
FAILURES_TO_OPEN = 8
OPEN_S, MAX_OPEN_S = 30.0, 480.0


class Clock:
    """A monotonic clock in seconds. Tests replace it by one whose ``sleep`` returns at once."""

    def now(self) -> float:
        """Return the seconds since an arbitrary moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block for ``seconds``."""
        time.sleep(seconds)

    def wait(self, ended: EndedCalls | None, seen: int, seconds: float) -> None:
        """Block for ``seconds``, or until a job has ended since ``ended.count`` was ``seen``."""
        if ended is None:
            self.sleep(seconds)
        else:
            ended.wait(seen, seconds)


def retry_delay(attempts: int) -> float:
    """Return the seconds to wait after ``attempts`` failed attempts: random, below 2 ** (attempts - 1) and 30."""
    return backoff(attempts, INITIAL_BACKOFF_S, MAX_BACKOFF_S)


class RateLimiter:
    """Decides when a job may be sent to an API; shared by all streams of a process.

    Pause: after a throttled call nothing is sent until the time that the API asked for. Limit on jobs in flight: halved
    by each throttled call, raised by one by each job that succeeds, up to ``max_in_flight``. Circuit breaker: after
    ``FAILURES_TO_OPEN`` failed calls, or failed jobs, in a row nothing is sent for ``OPEN_S``, twice as long each time
    up to ``MAX_OPEN_S``. After it one job at a time is sent until a job succeeds.
    """

    def __init__(self, clock: Clock, max_in_flight: int) -> None:
        self.clock, self.max_in_flight = clock, max_in_flight
        self.in_flight = 0
        self._limit = float(max_in_flight)
        self._paused_until = self._open_until = float("-inf")
        self._failed_calls = self._failed_jobs = self._throttles = 0
        self._failing_since: float | None = None
        self._open_s = OPEN_S
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        """How many jobs may be in flight now, 1 or more."""
        return 1 if self._is_failing else max(1, int(self._limit))

    @property
    def _is_failing(self) -> bool:
        return max(self._failed_calls, self._failed_jobs) >= FAILURES_TO_OPEN

    @property
    def can_acquire(self) -> bool:
        """Whether ``acquire`` would succeed now."""
        return self.in_flight < self.limit and not self.wait_s()

    def wait_s(self) -> float:
        """Return the seconds until the end of the pause and of the open circuit; 0 if there is neither."""
        with self._lock:
            return max(0.0, max(self._paused_until, self._open_until) - self.clock.now())

    def acquire(self) -> bool:
        """Count one more job in flight and return True; return False during a pause, or at the limit."""
        with self._lock:
            now = self.clock.now()
            if now < self._paused_until or now < self._open_until or self.in_flight >= self.limit:
                return False
            self.in_flight += 1
            return True

    def release(self) -> None:
        """Subtract one from ``in_flight``, because a job has ended or was not accepted."""
        with self._lock:
            self.in_flight -= 1

    def on_throttled(self, retry_after: float | None) -> float:
        """Halve the limit and pause all jobs. Return the pause: ``retry_after`` seconds, or a longer backoff.

        During a pause only ``retry_after`` counts: the job was sent before the pause, like the job that caused it.
        """
        with self._lock:
            now = self.clock.now()
            if now < self._paused_until:
                self._paused_until = max(self._paused_until, now + (retry_after or 0.0))
                return self._paused_until - now
            self._throttles += 1
            self._failing_since = now if self._failing_since is None else self._failing_since
            self._limit = max(1.0, self._limit / 2)
            seconds = max(retry_after or 0.0, retry_delay(self._throttles))
            self._paused_until = max(self._paused_until, now + seconds)
            return seconds

    def on_failure(self, job: bool = False) -> None:
        """Count a failed call, or a failed job. At ``FAILURES_TO_OPEN`` in a row, open the circuit."""
        with self._lock:
            now = self.clock.now()
            self._failed_calls += not job
            self._failed_jobs += job
            if self._failing_since is None:
                self._failing_since = now
            if self._is_failing and now >= self._open_until:
                self._open_until = now + self._open_s
                self._open_s = min(MAX_OPEN_S, 2 * self._open_s)

    def on_response(self) -> None:
        """Reset the count of failed calls. Close the circuit unless failed jobs keep it open."""
        with self._lock:
            self._failed_calls = 0
            if self._failed_jobs < FAILURES_TO_OPEN:
                self._close_circuit()

    def on_success(self) -> None:
        """Reset all counts, raise the limit by one, and close the circuit, because a job has succeeded."""
        with self._lock:
            self._failed_calls = self._failed_jobs = self._throttles = 0
            self._limit = min(float(self.max_in_flight), self._limit + 1)
            self._close_circuit()

    def _close_circuit(self) -> None:
        self._failing_since = None
        self._open_until, self._open_s = float("-inf"), OPEN_S

    def failing_s(self) -> float:
        """Return the seconds since the first of ``FAILURES_TO_OPEN`` or more failures or throttles in a row.

        Returns:
            0 if there were fewer.
        """
        with self._lock:
            is_bad = self._is_failing or self._throttles >= FAILURES_TO_OPEN
            return self.clock.now() - self._failing_since if is_bad and self._failing_since is not None else 0.0
