"""A limit on the pixels of the decoded pictures that are in memory at the same time."""

from __future__ import annotations

import threading


class BudgetClosed(RuntimeError):
    """Raised by ``PixelBudget.acquire`` once the budget is closed."""


class PixelBudget:
    """Count pixels in memory against ``limit``. Threads share one budget; ``used`` is the current count."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._closed = False
        self._changed = threading.Condition()

    def fits(self, pixels: int) -> bool:
        """Return whether ``used + pixels`` is at most ``limit``."""
        with self._changed:
            return self.used + pixels <= self.limit

    def acquire(self, pixels: int) -> None:
        """Block, without a time limit, until ``pixels`` fit, then count them.

        A picture larger than the limit is admitted alone: the call blocks until ``used`` is 0.

        Raises:
            BudgetClosed: if the budget is closed before the call or during the wait.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self.used or self.fits(pixels))
            if self._closed:
                raise BudgetClosed("the pixel budget is closed and admits no picture: make a new PixelBudget")
            self.used += pixels

    def add(self, pixels: int) -> None:
        """Count ``pixels`` without blocking, even if they do not fit."""
        with self._changed:
            self.used += pixels

    def release(self, pixels: int) -> None:
        """Subtract ``pixels`` that ``acquire`` or ``add`` counted, and wake the threads that wait."""
        with self._changed:
            self.used -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        """Make every waiting and every later ``acquire`` raise ``BudgetClosed``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
