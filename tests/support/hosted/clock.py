"""A clock that does not wait: ``sleep`` moves its time forward."""

from __future__ import annotations

import threading

from moondream_beam.models.hosted.dispatch.rate_limiter import Clock


class QuickClock(Clock):
    """A clock whose ``sleep`` adds to its time for all threads and returns at once."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._lock = threading.Lock()

    def __getstate__(self):
        return {"seconds": self.seconds}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        with self._lock:
            self.seconds += seconds

    def wait(self, ended, seen: int, seconds: float) -> None:
        # Threads of calls need a moment of real time. On a busy machine a call takes seconds, which must not be so many
        # seconds of this clock that the call counts as lost.
        if ended is None or not ended.wait(seen, 0.002):
            self.sleep(seconds)
