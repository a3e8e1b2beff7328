"""The bill of a worker: what jobs cost, and how much more may be spent."""

from __future__ import annotations

import math
import sys
import threading

from .service import Done


class Budget:
    """Counts units and dollars, and holds ``most_usd`` (None: no limit), shared by all streams of a process.

    Where the API does not tell what a job was billed, its pictures are taken to cost what others did so far; where none
    was told yet, ``guess``: the units and dollars of one. ``priced``: whether dollars are known at all.
    """

    def __init__(self, most_usd: float | None, priced: bool, guess: tuple[float, float]) -> None:
        self.most_usd, self.priced, self.guess = most_usd, priced, guess
        self.units = self.usd = 0.0
        self._told_units = self._told_usd = 0.0
        self._told_pictures = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    def take(self, pictures: int) -> int:
        """Reserve the money for so many pictures, or for fewer; none where what is in flight may take the rest."""
        with self._lock:
            taken = min(pictures, self._room())
            self._in_flight += taken
            return taken

    @property
    def spent(self) -> bool:
        """Whether no picture will have room any more."""
        with self._lock:
            return not self._in_flight and not self._room()

    def ended(self, pictures: int) -> None:
        """So many are no longer in flight."""
        with self._lock:
            self._in_flight -= pictures

    def bill(self, done: Done, pictures: int) -> tuple[float, float, bool]:
        """Count a job of so many pictures: its units and dollars, and whether they are estimated."""
        with self._lock:
            if done.units is not None:
                units, usd = done.units, done.usd or 0.0
                self._told_units += units
                self._told_usd += usd
                # What was free tells no price.
                self._told_pictures += pictures if units > 0 else 0
            elif self._told_pictures:
                units, usd = (pictures * told / self._told_pictures for told in (self._told_units, self._told_usd))
            else:
                units, usd = (pictures * each for each in self.guess)
            self.units += units
            self.usd += usd
            return units, usd, done.units is None

    def charge(self, units: float, usd: float) -> None:
        """Count what was billed for no answer, which tells nothing of the price of one."""
        with self._lock:
            self.units += units
            self.usd += usd

    def _room(self) -> int:
        if self.most_usd is None:
            return sys.maxsize
        left = self.most_usd - self.usd
        if self._told_usd <= 0:
            # Until one is billed, pictures go alone: it tells the price.
            return int(left > 0 and not self._in_flight)
        each = self._told_usd / self._told_pictures
        return max(0, math.floor(left / each + 1e-9) - self._in_flight)
