"""The spending limit of a worker process: what jobs were billed, and for how many pictures the rest suffices."""

from __future__ import annotations

import math
import sys
import threading

from ..service import JobResult


class Budget:
    """Sums units and dollars over all streams of a process, and limits them to ``max_usd`` (None: no limit).

    ``has_price``: whether dollars are known. ``default_cost``: units and dollars assumed for a picture whose units the
    API does not report. Once the API has reported units, their average is assumed.
    """

    def __init__(self, max_usd: float | None, has_price: bool, default_cost: tuple[float, float]) -> None:
        self.max_usd, self.has_price, self.default_cost = max_usd, has_price, default_cost
        self.units = self.usd = 0.0
        self._reported_units = self._reported_usd = 0.0
        self._reported_pictures = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    def reserve(self, num_pictures: int) -> int:
        """Reserve money for pictures that will be sent, and return for how many: ``num_pictures`` or fewer.

        Returns 0 if the pictures in flight may spend the rest. Each reserved picture must be released.
        """
        with self._lock:
            reserved = min(num_pictures, self._affordable())
            self._in_flight += reserved
            return reserved

    @property
    def is_exhausted(self) -> bool:
        """Whether the rest does not suffice for one more picture, and no picture in flight can change that."""
        with self._lock:
            return not self._in_flight and not self._affordable()

    def release(self, num_pictures: int) -> None:
        """End the reservation for pictures that are no longer in flight."""
        with self._lock:
            self._in_flight -= num_pictures

    def record(self, result: JobResult, num_pictures: int) -> tuple[float, float, bool]:
        """Add a finished job's cost to ``units`` and ``usd``. Return both, and whether they are estimated."""
        with self._lock:
            if result.units is not None:
                units, usd = result.units, result.usd or 0.0
                self._reported_units += units
                self._reported_usd += usd
                # A job that was billed 0 units does not show the price of a picture.
                self._reported_pictures += num_pictures if units > 0 else 0
            elif self._reported_pictures:
                reported = (self._reported_units, self._reported_usd)
                units, usd = (num_pictures * total / self._reported_pictures for total in reported)
            else:
                units, usd = (num_pictures * each for each in self.default_cost)
            self.units += units
            self.usd += usd
            return units, usd, result.units is None

    def record_rejected(self, units: float, usd: float) -> None:
        """Add what a rejected job was billed to ``units`` and ``usd``, but not to the average cost of a picture."""
        with self._lock:
            self.units += units
            self.usd += usd

    def _affordable(self) -> int:
        """Return how many more pictures ``max_usd`` allows; ``sys.maxsize`` without a limit.

        Until the API has billed a job, the number is 1 if no picture is in flight, else 0.
        """
        if self.max_usd is None:
            return sys.maxsize
        left = self.max_usd - self.usd
        if self._reported_usd <= 0:
            # Until the price of a picture is known, one picture is sent at a time.
            return int(left > 0 and not self._in_flight)
        cost = self._reported_usd / self._reported_pictures
        return max(0, math.floor(left / cost + 1e-9) - self._in_flight)
