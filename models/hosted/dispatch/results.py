"""How requests to an API end: answered, at fault, or sent again in smaller jobs; their bill goes with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ...billing import Billing
from ...tasks import Fault, Outcome, Request
from ..budget import Budget
from ..http.errors import RejectedError, UnfitError, brief
from ..http.images import Encoder
from ..journal import Entry, Journal
from ..service import Item, Service
from .batching import Batch, Batcher
from .rate_limiter import Clock, RateLimiter

# How often a single picture is sent whose answer does not fit it.
UNFIT_TRIES = 2
# Kinds of rejection that are about the way of a picture to the API, not about the picture.
FETCH_KINDS = ("file_download_error",)


class SharedState(NamedTuple):
    """What all streams of a process share; ``prepare`` turns a request into what is sent."""

    service: Service
    governor: RateLimiter
    budget: Budget
    journal: Journal
    clock: Clock
    prepare: Callable[[Request, Encoder], Item]


@dataclass(eq=False)
class ResultHandler:
    """The outcomes of one stream, as they come about; what must be sent again goes back to the packer."""

    desk: SharedState
    packer: Batcher
    ended: deque[Outcome] = field(default_factory=deque)

    def fail(self, items: Iterable[Item], fault: Fault, job: str = "") -> None:
        """Each of them has this fault."""
        for item in items:
            self.ended.append(Outcome(item.id, fault, self.desk.service.backend, hosted=self._hosted(item, job)))

    def lose(self, items: Iterable[Item], why: str) -> None:
        """The answer to a job was lost: who can't know whether it was paid must not pay again unasked."""
        message = f"the answer was lost ({why}); it may have been billed, so that only --retry-errors asks again"
        self.fail(items, Fault("LostAnswer", brief(message), retryable=True))

    def bill(self, entry: Entry, items: Iterable[Item]) -> None:
        """Charge a job to its items, an equal part to each place; who is not here takes his part elsewhere."""
        for item in items:
            item.units += entry.units / len(entry.places)
            item.usd += entry.usd / len(entry.places)
            item.estimated |= entry.estimated

    def deliver(self, entry: Entry, items: Sequence[Item | None]) -> None:
        """The answers of a job to its items.

        Raises:
            UnfitError: they don't fit.
        """
        for item, reply in zip(items, self.desk.service.read(entry.answer, items), strict=True):
            if item:
                timings = replace(reply.timings, wait_ms=1000 * max(0.0, item.sent - item.arrived))
                hosted = self._hosted(item, entry.job, reply.response)
                backend = self.desk.service.backend
                self.ended.append(Outcome(item.id, reply.result, backend, timings, reply.tokens, hosted))

    def reject(self, items: Sequence[Item | None], error: RejectedError) -> None:
        """The API named what is wrong, or left it to us to find by halves. The rest is sent again."""
        guilty = dict(error.named)
        for text, message in error.inputs.items():
            guilty |= {place: message for place, item in enumerate(items) if item and item.is_named(text)}
        if len(items) == 1:
            guilty = {0: guilty.get(0, str(error))}
        for place, message in guilty.items():
            if 0 <= place < len(items) and (item := items[place]):
                retryable = error.kind in FETCH_KINDS
                self.fail([item], Fault("Rejected", f"{error.kind}: {brief(message)}", retryable))
        innocent = [item for place, item in enumerate(items) if item and place not in guilty]
        self.send_again(innocent, cut=len(innocent) == len(items))

    def misfit(self, unit: Batch, error: UnfitError) -> None:
        """An answer that fits no questions: ask the halves; of a single picture, once more."""
        unit.failures += 1
        if len(unit.items) == 1 and unit.failures >= UNFIT_TRIES:
            self.fail(unit.items, Fault("MismatchedAnswer", brief(error), retryable=True))
        else:
            self.resend(unit, cut=True)

    def send_again(self, items: Sequence[Item], cut: bool) -> None:
        """Send items in a new job, or in two."""
        if items:
            now = self.desk.clock.now()
            self.resend(Batch(tuple(items), now, now), cut)

    def resend(self, unit: Batch, cut: bool) -> None:
        """Send a job again, or its halves."""
        for part in unit.halves() if cut and len(unit.items) > 1 else (unit,):
            self.packer.later(part, self.desk.clock.now())

    def _hosted(self, item: Item, job: str, told: str | None = None) -> Billing:
        usd = item.usd if self.desk.budget.priced else None
        return Billing(job, item.units, usd, item.estimated, told)
