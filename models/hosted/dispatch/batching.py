"""Requests packed into jobs: alike in their settings, no more than an API takes, sent when their time comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...tasks import Fault
from ..service import Item, Settings


@dataclass(eq=False)
class Batch:
    """Items that make one job, to be sent at ``due`` or later; ``since`` is when they were first ready.

    ``tries`` are submissions that failed, ``failures`` jobs that did.
    """

    items: Sequence[Item]
    due: float
    since: float
    tries: int = 0
    failures: int = 0
    last_fault: Fault | None = None

    def halves(self) -> tuple[Batch, Batch]:
        """Both halves, which begin anew but for one failure where there was any: cutting is dear as it is."""
        anew = replace(self, failures=min(self.failures, 1))
        middle = (len(self.items) + 1) // 2
        return anew.first(middle), anew.rest(middle)

    def first(self, count: int) -> Batch:
        """So many of them."""
        return replace(self, items=self.items[:count])

    def rest(self, count: int) -> Batch:
        """All but so many of them."""
        return replace(self, items=self.items[count:])


class Batcher:
    """Items on their way into jobs, and jobs on their way out."""

    def __init__(self, most_items: int, most_bytes: int) -> None:
        self.most_items, self.most_bytes = most_items, most_bytes
        self._open: dict[Settings, list[Item]] = {}
        self._units: list[Batch] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here."""
        return not self._units and not self._open

    def add(self, item: Item, now: float) -> None:
        """Take an item; with it a job may be full."""
        items = self._open.setdefault(item.settings, [])
        if items and sum(other.size for other in items) + item.size > self.most_bytes:
            self._units.append(Batch(tuple(items), now, now))
            items.clear()
        items.append(item)
        if len(items) == self.most_items:
            self._units.append(Batch(tuple(self._open.pop(item.settings)), now, now))

    def flush(self, now: float) -> None:
        """Nothing more comes: what is there is full enough."""
        self._units += [Batch(tuple(items), now, now) for items in self._open.values()]
        self._open.clear()

    def has_due(self, now: float) -> bool:
        """Whether a job may be sent now."""
        return any(unit.due <= now for unit in self._units)

    def take(self, now: float) -> Batch | None:
        """A job that may be sent now, the longest due first."""
        due = [unit for unit in self._units if unit.due <= now]
        if not due:
            return None
        unit = min(due, key=lambda unit: unit.due)
        self._units.remove(unit)
        return unit

    def later(self, unit: Batch, due: float) -> None:
        """Send a job at this time."""
        unit.due = due
        self._units.append(unit)

    def impatient(self, since: float) -> Iterator[Batch]:
        """Take out the jobs that have been ready since then or longer."""
        for unit in [unit for unit in self._units if unit.since <= since]:
            self._units.remove(unit)
            yield unit

    def next_due(self) -> float:
        """When the next job may be sent."""
        return min((unit.due for unit in self._units), default=float("inf"))
