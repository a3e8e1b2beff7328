"""The caller: a stream of requests in, many jobs in flight from one thread, one outcome for every request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...tasks import Fault, Outcome, Request
from ..http.errors import (
    AccountError,
    CallError,
    LostAnswerError,
    NotSentError,
    RejectedError,
    ThrottledError,
    UnavailableError,
    UnfitError,
    brief,
)
from ..http.images import Encoder
from .batching import Batch, Batcher
from .in_flight import InFlightJobs
from .rate_limiter import retry_delay
from .results import ResultHandler, SharedState

# How long a request may wait for an API that takes nothing.
PATIENCE_S = 1800.0
# Once the account is refused: how long what is in flight is still waited for.
DRAIN_S = 60.0
SUBMIT_TRIES = 8
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 2.0


class Dispatcher:
    """One stream of requests through an API."""

    def __init__(self, desk: SharedState, requests: Iterable[Request], scope: str = "") -> None:
        self.desk, self.stream, self.scope = desk, iter(requests), scope
        self.packer = Batcher(desk.service.most_items, desk.service.most_bytes)
        self.settler = ResultHandler(desk, self.packer)
        self.flights = InFlightJobs(desk, self.settler)
        self.jpeg_of = Encoder()
        self.is_dry = False
        self.refusal: AccountError | None = None
        self.drained_at = 0.0

    def answer(self) -> Iterator[Outcome]:
        """Outcomes as they come.

        Raises:
            AccountError: the API wants none of us. What was in flight has been waited for.
        """
        self.desk.journal.refresh()
        ended = self.settler.ended
        try:
            while not self._is_over():
                moved = self._poll()
                moved = self._send() or moved
                while ended:
                    moved = True
                    yield ended.popleft()
                if self.refusal and (not self.flights.flights or self.desk.clock.now() > self.drained_at):
                    raise self.refusal
                if not moved:
                    self.desk.clock.sleep(self._pause())
        finally:
            self.flights.hang_up()

    def _is_over(self) -> bool:
        return self.is_dry and self.packer.is_empty and not self.flights.flights and not self.settler.ended

    def _pause(self) -> float:
        """Seconds until something may happen; other streams of the process may make it happen earlier."""
        until = self.flights.next_poll() - self.desk.clock.now()
        if not self.refusal:
            governor = self.desk.governor
            sendable = max(self.packer.next_due() - self.desk.clock.now(), governor.wait())
            until = min(until, sendable if governor.in_flight < governor.limit else LONGEST_PAUSE_S)
        return min(max(until, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)

    def _poll(self) -> bool:
        try:
            return self.flights.poll()
        except AccountError as error:
            self._refuse(error)
            return True

    def _send(self) -> bool:
        """Send the next job, if there is one and it may be sent; whether anything happened."""
        desk, packer = self.desk, self.packer
        if self.refusal:
            return False
        stalled = desk.governor.wait() > 0
        hopeless = stalled and desk.governor.failing_s() > PATIENCE_S
        moved = False
        if not packer.has_due(desk.clock.now()) and (hopeless or desk.governor.has_room):
            moved = self._fill()
        if stalled:
            moved = self._lose_patience(hopeless) or moved
        unit = packer.take(desk.clock.now())
        if unit is None:
            return moved
        if not desk.governor.enter():
            packer.later(unit, unit.due)
            return moved
        return self._pay(unit) or moved

    def _fill(self) -> bool:
        """Pull requests until there is a job to send, or one in flight to ask after; whether any came."""
        moved = False
        while not self.is_dry and not self.packer.has_due(self.desk.clock.now()):
            request = next(self.stream, None)
            moved = True
            if request is None:
                self.is_dry = True
                self.packer.flush(self.desk.clock.now())
            else:
                self._take_in(request)
            if self.settler.ended or self.flights.next_poll() <= self.desk.clock.now():
                break
        return moved

    def _take_in(self, request: Request) -> None:
        """Find out what has become of a request before; mostly nothing."""
        try:
            item = self.desk.prepare(request, self.jpeg_of)
        except Exception as error:  # Pillow raises many kinds over a picture that it can't read to the end.
            self.settler.ended.append(Outcome(request.id, Fault.of(error), self.desk.service.backend))
            return
        if self.flights.join(item):
            return
        entry = self.desk.journal.find(item.id, self.scope)
        if entry is None:
            self.packer.add(item, self.desk.clock.now())
            return
        if entry.state == "asked":
            self.settler.lose([item], "the worker that waited for it is gone")
            return
        if entry.state == "done":
            items = [item if place == item.id else None for place in entry.places]
            self.settler.bill(entry, [item])
            try:
                self.settler.deliver(entry, items)
            except UnfitError:
                # Another version of this package took that for an answer.
                self.packer.add(item, self.desk.clock.now())
        else:
            self.flights.take_up(entry, item)

    def _lose_patience(self, hopeless: bool) -> bool:
        """Nothing can be sent: nobody waits for ever."""
        since = self.desk.clock.now() - (0.0 if hopeless else PATIENCE_S)
        units = list(self.packer.impatient(since))
        for unit in units:
            down = Fault("Unavailable", f"{self.desk.service.backend} takes nothing any more", retryable=True)
            self.settler.fail(unit.items, unit.last_fault or down)
        return bool(units)

    def _pay(self, unit: Batch) -> bool:
        """Send what the budget allows of a job that has its place; whether anything happened."""
        desk = self.desk
        affordable = desk.budget.take(len(unit.items))
        accepted = False
        try:
            if affordable:
                if affordable < len(unit.items):
                    self.packer.later(unit.rest(affordable), unit.due)
                accepted = self._submit(unit.first(affordable))
                return True
            if not desk.budget.spent:
                # What is in flight may take the rest.
                self.packer.later(unit, unit.due)
                return False
            message = f"the budget of {desk.budget.most_usd:g} dollars is spent; run again with more to go on"
            self.settler.fail(unit.items, Fault("BudgetSpent", message, retryable=True))
            return True
        finally:
            if not accepted:
                desk.budget.ended(affordable)
                desk.governor.leave()

    def _submit(self, unit: Batch) -> bool:
        """Send a job; whether it was accepted."""
        desk = self.desk
        entry = desk.journal.ask([item.id for item in unit.items], self.scope)
        try:
            entry.job = desk.service.submit(unit.items)
        except LostAnswerError as error:
            desk.governor.failed()
            desk.journal.leave(entry)
            self.settler.lose(unit.items, str(error))
            return False
        except AccountError as error:
            desk.journal.drop(entry)
            self._refuse(error)
            return False
        except CallError as error:
            desk.journal.drop(entry)
            self._not_accepted(unit, error)
            return False
        if desk.service.remembers:
            desk.governor.answered()
        for item in unit.items:
            item.sent = desk.clock.now()
        desk.journal.note(entry, "accepted")
        self.flights.add(entry, unit)
        return True

    def _not_accepted(self, unit: Batch, error: CallError) -> None:
        """Send it again later, or know better."""
        governor, now = self.desk.governor, self.desk.clock.now()
        if isinstance(error, RejectedError):
            self.settler.reject(list(unit.items), error)
            return
        unit.last_fault = Fault("Unavailable", brief(error), retryable=True)
        if isinstance(error, ThrottledError):
            governor.throttled(error.retry_after)
            self.packer.later(unit, now)
            return
        assert isinstance(error, NotSentError | UnavailableError), error
        governor.failed()
        unit.tries += 1
        if unit.tries >= SUBMIT_TRIES or (isinstance(error, UnavailableError) and not error.again):
            self.settler.fail(unit.items, unit.last_fault)
        else:
            self.packer.later(unit, now + retry_delay(unit.tries))

    def _refuse(self, error: AccountError) -> None:
        if self.refusal is None:
            self.refusal, self.drained_at = error, self.desk.clock.now() + DRAIN_S
