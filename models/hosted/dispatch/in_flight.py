"""Jobs that an API has accepted: asked after until they end, never sent again while they may be paid for."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ...tasks import Fault
from ..http.errors import (
    AccountError,
    CallError,
    GoneError,
    LostAnswerError,
    NotSentError,
    PollError,
    RejectedError,
    ThrottledError,
    UnavailableError,
    UnfitError,
    brief,
)
from ..journal import Entry
from ..service import Done, Item
from .batching import Batch
from .rate_limiter import retry_delay
from .results import ResultHandler, SharedState

log = logging.getLogger(__name__)


@dataclass(eq=False)
class InFlightJob:
    """A job that the API accepted. ``own``: this stream sent it, and it holds a place and money until it ends."""

    entry: Entry
    items: list[Item | None]
    own: bool
    started: float
    poll_at: float
    unit: Batch
    polls: int = 0
    misses: int = 0
    asked_twice: bool = False

    @property
    def present(self) -> list[Item]:
        """The items that have come."""
        return [item for item in self.items if item]


@dataclass(eq=False)
class InFlightJobs:
    """The jobs of one stream that are in flight."""

    desk: SharedState
    settler: ResultHandler
    flights: list[InFlightJob] = field(default_factory=list)

    def add(self, entry: Entry, unit: Batch) -> None:
        """Look after a job that was just sent."""
        now = self.desk.clock.now()
        self.flights.append(InFlightJob(entry, list(unit.items), True, now, now + self.desk.service.pause(0), unit))

    def take_up(self, entry: Entry, item: Item) -> None:
        """Look after a job that somebody sent before, of which this is the first item to come again."""
        now = self.desk.clock.now()
        items = [item if place == item.id else None for place in entry.places]
        self.flights.append(InFlightJob(entry, items, False, now, now, Batch((item,), now, now)))

    def join(self, item: Item) -> bool:
        """Whether an item belongs to a job that was taken up again, where it now has its place."""
        for flight in self.flights:
            if not flight.own and item.id in flight.entry.places:
                place = flight.entry.places.index(item.id)
                if flight.items[place] is None:
                    flight.items[place] = item
                    return True
        return False

    def next_poll(self) -> float:
        """When the next of them is to be asked after."""
        return min((flight.poll_at for flight in self.flights), default=float("inf"))

    def poll(self) -> bool:
        """Ask after those whose time has come; whether there were any.

        Raises:
            AccountError: the API does not even tell that any more.
        """
        due = [flight for flight in self.flights if flight.poll_at <= self.desk.clock.now()]
        for flight in due:
            self._ask(flight)
        return bool(due)

    def hang_up(self) -> None:
        """Nobody listens any more: what can still be cancelled is; the journal keeps what became of the rest."""
        desk = self.desk
        for flight in list(self.flights):
            with suppress(CallError, AccountError):
                if flight.own and desk.service.cancel(flight.entry.job):
                    desk.journal.note(flight.entry, "cancelled")
                elif flight.own and not desk.service.remembers and (done := desk.service.poll(flight.entry.job)):
                    self._keep(flight, done)
            self._land(flight)

    def _ask(self, flight: InFlightJob) -> None:
        desk = self.desk
        flight.polls += 1
        try:
            done = desk.service.poll(flight.entry.job)
        except AccountError:
            self._land(flight)
            if not desk.service.remembers:
                desk.journal.drop(flight.entry)
            raise
        except PollError as error:
            self._missed(flight, error)
        except CallError as error:
            self._failed(flight, error)
        else:
            flight.misses = 0
            if desk.service.remembers:
                desk.governor.answered()
            if done is not None:
                desk.governor.succeeded()
                self._done(flight, done)
                return
            flight.poll_at = desk.clock.now() + desk.service.pause(flight.polls)
        if flight in self.flights and desk.clock.now() - flight.started > desk.service.deadline_s:
            self._give_up(flight)

    def _done(self, flight: InFlightJob, done: Done) -> None:
        entry = flight.entry
        self._keep(flight, done)
        self._land(flight)
        self.settler.bill(entry, flight.present)
        try:
            self.settler.deliver(entry, flight.items)
        except UnfitError as error:
            self.desk.journal.drop(entry)
            self.settler.misfit(self._unit(flight), error)

    def _keep(self, flight: InFlightJob, done: Done) -> None:
        entry = flight.entry
        entry.answer = done.answer
        entry.units, entry.usd, entry.estimated = self.desk.budget.bill(done, len(entry.places))
        self.desk.journal.note(entry, "done")

    def _missed(self, flight: InFlightJob, error: PollError) -> None:
        """The asking failed, not the job: ask again, never send again."""
        desk = self.desk
        flight.misses += 1
        if error.retry_after is None:
            desk.governor.failed()
            wait = retry_delay(flight.misses)
        else:
            wait = desk.governor.throttled(error.retry_after)
        log.debug("asking after %s failed: %s", flight.entry.job, error)
        flight.poll_at = desk.clock.now() + max(wait, desk.service.pause(flight.polls))

    def _failed(self, flight: InFlightJob, error: CallError) -> None:
        """The job failed."""
        desk, entry = self.desk, flight.entry
        again = isinstance(error, UnavailableError) and error.again
        if again and desk.service.remembers and not flight.asked_twice:
            # A second look costs nothing, and sometimes there is an answer after all.
            flight.asked_twice = True
            flight.poll_at = desk.clock.now() + retry_delay(1)
            return
        self._land(flight)
        if isinstance(error, LostAnswerError) or (isinstance(error, GoneError) and entry.state != "cancelled"):
            desk.governor.failed(job=True)
            self.settler.lose(flight.present, str(error))
            return
        desk.journal.drop(entry)
        if isinstance(error, RejectedError):
            entry.units, entry.usd = error.units, error.usd
            desk.budget.charge(entry.units, entry.usd)
            self.settler.bill(entry, flight.present)
            self.settler.reject(flight.items, error)
        elif isinstance(error, ThrottledError):
            desk.governor.throttled(error.retry_after)
            self.settler.resend(self._unit(flight), cut=False)
        elif isinstance(error, GoneError):
            self.settler.resend(self._unit(flight), cut=False)
        else:
            assert isinstance(error, NotSentError | UnavailableError), error
            desk.governor.failed(job=True)
            self._send_again(flight, error, again or isinstance(error, NotSentError))

    def _send_again(self, flight: InFlightJob, error: CallError, again: bool) -> None:
        unit = self._unit(flight)
        unit.failures += 1
        unit.last_fault = Fault("Unavailable", brief(error), retryable=True)
        if again and unit.failures <= self.desk.service.job_tries:
            self.settler.packer.later(unit, self.desk.clock.now() + retry_delay(unit.failures))
        elif len(unit.items) > 1:
            # One picture may be what brings the API down.
            self.settler.resend(unit, cut=True)
        else:
            self.settler.fail(unit.items, unit.last_fault, flight.entry.job)

    def _give_up(self, flight: InFlightJob) -> None:
        """It took too long: ask for its end, and if it just came, for its answer."""
        desk = self.desk
        cancelled = False
        with suppress(CallError):
            cancelled = desk.service.cancel(flight.entry.job)
        if not cancelled:
            with suppress(CallError):
                if (done := desk.service.poll(flight.entry.job)) is not None:
                    self._done(flight, done)
                    return
        desk.journal.note(flight.entry, "cancelled" if cancelled else "accepted")
        self._land(flight)
        message = f"no answer within {desk.service.deadline_s:.0f} s; it may have been billed"
        self.settler.fail(flight.present, Fault("Timeout", message, retryable=True), flight.entry.job)

    def _land(self, flight: InFlightJob) -> None:
        self.flights.remove(flight)
        if flight.own:
            self.desk.governor.leave()
            self.desk.budget.ended(len(flight.items))
            self.desk.journal.leave(flight.entry)

    def _unit(self, flight: InFlightJob) -> Batch:
        return replace(flight.unit, items=tuple(flight.present))
