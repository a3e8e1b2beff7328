"""Turn the answers and failures of jobs into outcomes of requests, or into batches that are sent again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from PIL.Image import Image

from ...tasks import Fault, Outcome, Request
from ..http.errors import MismatchedAnswerError, RejectedError, one_line
from ..payment.billing import Billing
from ..payment.budget import Budget
from ..payment.journal import Entry, Journal
from ..service import Item, Service
from .batching import Batch, Batcher
from .rate_limiter import Clock, RateLimiter

# After how many jobs without a matching answer a single picture fails. The jobs before it was alone count as one.
MAX_MISMATCHES = 2
# Codes of rejections because the API could not download the picture. A later download may succeed.
DOWNLOAD_ERRORS = ("file_download_error",)


class SharedState(NamedTuple):
    """What all streams of a process share.

    ``prepare`` makes the item of a request, without its JPEG. ``encode`` makes a JPEG of a picture.
    """

    service: Service
    limiter: RateLimiter
    budget: Budget
    journal: Journal
    clock: Clock
    prepare: Callable[[Request], Item]
    encode: Callable[[Image], bytes]


@dataclass(eq=False)
class ResultHandler:
    """Collects the outcomes of one stream in ``outcomes``. Items that must be sent again go back to ``batcher``."""

    state: SharedState
    batcher: Batcher
    outcomes: deque[Outcome] = field(default_factory=deque)

    def fail(self, items: Iterable[Item], fault: Fault, job: str = "") -> None:
        """Add an outcome with this fault to ``outcomes`` for each item. ``job``: the API's id of an accepted job."""
        backend = self.state.service.backend
        for item in items:
            self.outcomes.append(Outcome(item.id, fault, backend, hosted=self._billing(item, job)))

    def mark_lost(self, items: Iterable[Item], reason: str) -> None:
        """Add a ``LostAnswer`` fault to ``outcomes`` for each item. None is sent again: they may have been billed."""
        message = f"the answer was lost and may have been billed; run again with --retry-errors to ask again: {reason}"
        self.fail(items, Fault("LostAnswer", one_line(message), retryable=True))

    def charge(self, entry: Entry, items: Iterable[Item]) -> None:
        """Add 1/n of a job's units and dollars to ``units`` and ``usd`` of each item, for a job of n requests."""
        for item in items:
            item.units += entry.units / len(entry.request_ids)
            item.usd += entry.usd / len(entry.request_ids)
            item.estimated |= entry.estimated

    def deliver(self, entry: Entry, items: Sequence[Item | None]) -> None:
        """Parse the answer of a finished job and add the outcomes of its items to ``outcomes``. None is skipped.

        Raises:
            MismatchedAnswerError: if the answer does not match the items.
        """
        service = self.state.service
        for item, reply in zip(items, service.parse(entry.answer, items), strict=True):
            if item is not None:
                assert reply is not None, "a service returns a reply for each item"
                timings = replace(reply.timings, wait_ms=1000 * max(0.0, item.sent - item.arrived))
                hosted = self._billing(item, entry.job, reply.response)
                self.outcomes.append(Outcome(item.id, reply.result, service.backend, timings, reply.tokens, hosted))

    def reject(self, items: Sequence[Item | None], error: RejectedError) -> None:
        """Add a ``Rejected`` fault for each item that the API named as bad, and schedule the others again.

        If the API named no item, schedule both halves; a single item gets the fault.
        """
        bad = dict(error.by_index)
        for text, message in error.by_input.items():
            bad |= {index: message for index, item in enumerate(items) if item and item.was_sent_as(text)}
        if len(items) == 1:
            bad = {0: bad.get(0, str(error))}
        for index, message in bad.items():
            if 0 <= index < len(items) and (item := items[index]):
                retryable = error.code in DOWNLOAD_ERRORS
                cure = "run again with --retry-errors" if retryable else "correct the picture, or use another backend"
                self.fail([item], Fault("Rejected", f"{error.code}: {one_line(message)}; {cure}", retryable))
        good = [item for index, item in enumerate(items) if item and index not in bad]
        if good:
            now = self.state.clock.now()
            self.resend(Batch(tuple(good), now, now), split=len(good) == len(items))

    def mismatched(self, batch: Batch, error: MismatchedAnswerError) -> None:
        """Schedule the halves of a batch whose answer did not match. A single item fails after ``MAX_MISMATCHES``."""
        batch.failed_jobs += 1
        batch.attempts += 1
        if len(batch.items) == 1 and batch.failed_jobs >= MAX_MISMATCHES:
            fault = Fault("MismatchedAnswer", one_line(error), retryable=True, attempts=batch.attempts)
            self.fail(batch.items, fault)
        else:
            self.resend(batch, split=True)

    def resend(self, batch: Batch, split: bool) -> None:
        """Schedule a batch in ``batcher`` to be sent now; with ``split`` as two halves if it has more than one item."""
        for part in batch.halves() if split and len(batch.items) > 1 else (batch,):
            self.batcher.schedule(part, self.state.clock.now())

    def _billing(self, item: Item, job: str, response: str | None = None) -> Billing:
        usd = item.usd if self.state.budget.has_price else None
        return Billing(job, item.units, usd, item.estimated, response)
