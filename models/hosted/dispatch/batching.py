"""Collect requests with the same settings into batches, each of which is sent as one job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...tasks import Fault
from ..http.errors import one_line
from ..service import Item, Settings


@dataclass(eq=False)
class Batch:
    """Items for one job. It may be sent at ``due`` or later; ``ready_at`` is when it was complete.

    ``failed_submits``: how often its submission failed. ``failed_jobs``: how often an accepted job of it failed.
    ``attempts``: how often either happened to its items, also in larger batches. ``last_fault``: the fault of the
    latest failure. Times are in seconds of the clock.
    """

    items: Sequence[Item]
    due: float
    ready_at: float
    failed_submits: int = 0
    failed_jobs: int = 0
    attempts: int = 0
    last_fault: Fault | None = None

    def record_failure(self, error: Exception, *, is_attempt: bool = True) -> Fault:
        """Return an ``Unavailable`` fault about an error, and keep the fault. Count an attempt if it is one."""
        self.attempts += is_attempt
        message = f"{one_line(error)}; run again with --retry-errors"
        self.last_fault = Fault("Unavailable", message, retryable=True, attempts=max(1, self.attempts))
        return self.last_fault

    def halves(self) -> tuple[Batch, Batch]:
        """Return both halves, the first one longer if the count is odd. Each has at most one failed job.

        A half keeps one failure so that it is split again soon: each further job costs money.
        """
        whole = replace(self, failed_jobs=min(self.failed_jobs, 1))
        middle = (len(self.items) + 1) // 2
        return whole.first(middle), whole.rest(middle)

    def first(self, count: int) -> Batch:
        """Return a batch of the first ``count`` items."""
        return replace(self, items=self.items[:count])

    def rest(self, count: int) -> Batch:
        """Return a batch of all but the first ``count`` items."""
        return replace(self, items=self.items[count:])


class Batcher:
    """Fills batches of at most ``max_items`` and ``max_bytes`` of pictures, and keeps them until they are due.

    A single larger picture is a batch of its own.
    """

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self.max_items, self.max_bytes = max_items, max_bytes
        self._open: dict[Settings, list[Item]] = {}
        self._batches: list[Batch] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a batch nor a single item."""
        return not self._batches and not self._open

    def add(self, item: Item, now: float) -> None:
        """Add an item to the open batch of its settings. A batch that is full becomes due at ``now``."""
        items = self._open.setdefault(item.settings, [])
        if items and sum(other.size for other in items) + item.size > self.max_bytes:
            self._batches.append(Batch(tuple(items), now, now))
            items.clear()
        items.append(item)
        if len(items) == self.max_items:
            self._batches.append(Batch(tuple(self._open.pop(item.settings)), now, now))

    def flush(self, now: float) -> None:
        """Make all open batches due at ``now``, because no more items will come."""
        self._batches += [Batch(tuple(items), now, now) for items in self._open.values()]
        self._open.clear()

    def has_due(self, now: float) -> bool:
        """Return whether a batch is due at ``now``."""
        return any(batch.due <= now for batch in self._batches)

    def pop(self, now: float) -> Batch | None:
        """Remove and return the batch that has been due for the longest time; None if no batch is due at ``now``."""
        due = [batch for batch in self._batches if batch.due <= now]
        if not due:
            return None
        batch = min(due, key=lambda batch: batch.due)
        self._batches.remove(batch)
        return batch

    def schedule(self, batch: Batch, due: float) -> None:
        """Keep a batch that is to be sent at ``due``. ``pop`` does not return the batch earlier."""
        batch.due = due
        self._batches.append(batch)

    def expired(self, ready_before: float) -> list[Batch]:
        """Remove and return the batches that have been ready since ``ready_before`` or longer."""
        expired = [batch for batch in self._batches if batch.ready_at <= ready_before]
        self._batches = [batch for batch in self._batches if batch.ready_at > ready_before]
        return expired

    def next_due(self) -> float:
        """Return when the next batch is due; infinity if there is none."""
        return min((batch.due for batch in self._batches), default=float("inf"))
