"""The dispatcher: takes a stream of requests, keeps many jobs in flight from one thread, yields all outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...tasks import Fault, Outcome, Request
from ..http.errors import (
    AccountError,
    CallError,
    LostAnswerError,
    MismatchedAnswerError,
    NotSentError,
    RejectedError,
    ThrottledError,
    UnavailableError,
)
from ..service import Item
from .batching import Batch, Batcher
from .in_flight import InFlightJobs
from .rate_limiter import retry_delay
from .reader import RequestReader
from .results import ResultHandler, SharedState

# How long a request may wait while the API accepts no jobs.
MAX_WAIT_S = 1800.0
# How long jobs in flight are still polled after the API has refused the account.
DRAIN_S = 60.0
MAX_SUBMITS = 8
MIN_SLEEP_S, MAX_SLEEP_S = 0.005, 2.0


class Dispatcher:
    """Sends one stream of requests through an API. ``scope`` is the journal's scope of its jobs."""

    def __init__(self, state: SharedState, requests: Iterable[Request], scope: str = "") -> None:
        self.state, self.scope = state, scope
        self.reader = RequestReader(state, requests)
        self.batcher = Batcher(state.service.max_items, state.service.max_bytes)
        self.results = ResultHandler(state, self.batcher)
        self.in_flight = InFlightJobs(state, self.results)
        self.is_exhausted = False
        self.account_error: AccountError | None = None
        self.drain_until = 0.0

    def answer(self) -> Iterator[Outcome]:
        """Yield one outcome for each request, in the order in which they end.

        Raises:
            AccountError: if the API refuses the account. Before it, jobs in flight are polled for up to ``DRAIN_S``.
        """
        self.state.journal.refresh()
        outcomes = self.results.outcomes
        self.reader.start()
        try:
            while not self._is_done():
                seen = self.reader.changed.count
                progressed = self._poll()
                progressed = self._send() or progressed
                while outcomes:
                    progressed = True
                    yield outcomes.popleft()
                if self.account_error and (not self.in_flight.jobs or self.state.clock.now() > self.drain_until):
                    raise self.account_error
                if not progressed and self._wants_request():
                    self.reader.wait(seen, self._sleep_s())
                elif not progressed:
                    self.state.clock.wait(self.state.service.ended, seen, self._sleep_s())
        finally:
            self.reader.close()
            self.in_flight.close()

    def _is_done(self) -> bool:
        return self.is_exhausted and self.batcher.is_empty and not self.in_flight.jobs and not self.results.outcomes

    def _sleep_s(self) -> float:
        """Return the seconds until the next poll or the next batch, within ``MIN_SLEEP_S`` and ``MAX_SLEEP_S``."""
        now = self.state.clock.now()
        seconds = self.in_flight.next_poll() - now
        if not self.account_error:
            limiter = self.state.limiter
            until_send = max(self.batcher.next_due() - now, limiter.wait_s())
            # At the limit another stream of the process may free a place at any moment.
            seconds = min(seconds, until_send if limiter.in_flight < limiter.limit else MAX_SLEEP_S)
        return min(max(seconds, MIN_SLEEP_S), MAX_SLEEP_S)

    def _poll(self) -> bool:
        """Poll the jobs that are due, and send a batch after each. Return whether there were any."""
        due = self.in_flight.due()
        for job in due:
            try:
                self.in_flight.poll(job)
            except AccountError as error:
                self._on_account_error(error)
            # The place of a job that has ended must not stay empty while the answers of others are parsed.
            self._send()
        return bool(due)

    def _send(self) -> bool:
        """Send the next batch if one is due and limiter and budget allow it. Return whether anything changed."""
        state, batcher = self.state, self.batcher
        if self.account_error:
            return False
        progressed = self._wants_request() and self._fill()
        if state.limiter.wait_s() > 0:
            progressed = self._expire() or progressed
        batch = batcher.pop(state.clock.now())
        if batch is None:
            return progressed
        if not state.limiter.acquire():
            batcher.schedule(batch, batch.due)
            return progressed
        return self._submit_within_budget(batch) or progressed

    def _is_hopeless(self) -> bool:
        """Return whether the API has accepted no job for ``MAX_WAIT_S``, so that all requests get a fault."""
        return self.state.limiter.wait_s() > 0 and self.state.limiter.failing_s() > MAX_WAIT_S

    def _wants_request(self) -> bool:
        """Return whether a request could be sent now, or gets a fault at once, and no batch is due."""
        if self.is_exhausted or self.account_error or self.batcher.has_due(self.state.clock.now()):
            return False
        return self.state.limiter.can_acquire or self._is_hopeless()

    def _fill(self) -> bool:
        """Add the requests that are ready to ``batcher`` until a batch, an outcome or a poll is due.

        Return whether there was any, or the end of all requests.
        """
        progressed = False
        while not self.is_exhausted and not self.batcher.has_due(self.state.clock.now()):
            read = self.reader.pop()
            if read is None and not self.reader.is_over:
                break
            progressed = True
            if read is None:
                self.is_exhausted = True
                self.batcher.flush(self.state.clock.now())
            elif isinstance(read, Outcome):
                self.results.outcomes.append(read)
            else:
                self._admit(read)
            if self.results.outcomes or self.in_flight.next_poll() <= self.state.clock.now():
                break
        return progressed

    def _admit(self, item: Item) -> None:
        """Add an item to ``batcher``, unless the journal has a job for it: then use or await that job's answer.

        An item whose answer is lost gets an outcome with a fault.
        """
        if self.in_flight.attach(item):
            return
        entry = self.state.journal.find(item.id, self.scope)
        if entry is None:
            self.batcher.add(item, self.state.clock.now())
            return
        if entry.state == "submitting":
            self.results.mark_lost([item], "the worker stopped while it sent the job")
            return
        if entry.state == "done":
            items = [item if request_id == item.id else None for request_id in entry.request_ids]
            self.results.charge(entry, [item])
            try:
                self.results.deliver(entry, items)
            except MismatchedAnswerError:
                # Another version of this package accepted this answer.
                self.batcher.add(item, self.state.clock.now())
        else:
            self.in_flight.resume(entry, item)

    def _expire(self) -> bool:
        """Add faults for batches that waited for ``MAX_WAIT_S``, or for all if ``_is_hopeless``. Return if any did."""
        batches = self.batcher.expired(self.state.clock.now() - (0.0 if self._is_hopeless() else MAX_WAIT_S))
        for batch in batches:
            message = (
                f"{self.state.service.backend} accepted no jobs for {MAX_WAIT_S / 60:.0f} minutes: "
                "run again with --retry-errors"
            )
            self.results.fail(batch.items, batch.last_fault or Fault("Unavailable", message, retryable=True))
        return bool(batches)

    def _submit_within_budget(self, batch: Batch) -> bool:
        """Submit the part of a batch that the budget covers, and schedule the rest. Return whether anything changed.

        The limiter has counted the job already. The count is undone if the API does not accept the job.
        """
        state = self.state
        affordable = state.budget.reserve(len(batch.items))
        accepted = False
        try:
            if affordable:
                if affordable < len(batch.items):
                    self.batcher.schedule(batch.rest(affordable), batch.due)
                accepted = self._submit(batch.first(affordable))
                return True
            if not state.budget.is_exhausted:
                # The jobs in flight may cost less than is reserved for them.
                self.batcher.schedule(batch, batch.due)
                return False
            message = (
                f"the budget of {state.budget.max_usd:g} dollars is spent: "
                "run again with --retry-errors and a higher --max-cost"
            )
            self.results.fail(batch.items, Fault("BudgetSpent", message, retryable=True))
            return True
        finally:
            if not accepted:
                state.budget.release(affordable)
                state.limiter.release()

    def _submit(self, batch: Batch) -> bool:
        """Submit a batch as a job. Return whether the API accepted the job."""
        state = self.state
        entry = state.journal.record_submission([item.id for item in batch.items], self.scope)
        try:
            entry.job = state.service.submit(batch.items)
        except LostAnswerError as error:
            state.limiter.on_failure()
            state.journal.release(entry)
            self.results.mark_lost(batch.items, str(error))
            return False
        except AccountError as error:
            state.journal.discard(entry)
            self._on_account_error(error)
            return False
        except CallError as error:
            state.journal.discard(entry)
            self._on_failed_submit(batch, error)
            return False
        if state.service.keeps_results:
            state.limiter.on_response()
        for item in batch.items:
            item.sent = state.clock.now()
        state.journal.update(entry, "accepted")
        self.in_flight.add(entry, batch)
        return True

    def _on_failed_submit(self, batch: Batch, error: CallError) -> None:
        """Schedule a batch whose call failed for one more call, or end it.

        - ``RejectedError``: the batch goes to ``results.reject``.
        - ``ThrottledError``: the batch is scheduled at once, and the limiter slows down.
        - ``UnavailableError`` that is not retryable, or the ``MAX_SUBMITS``-th failure: each item gets a fault.
        - otherwise the batch is scheduled after ``retry_delay``.
        """
        limiter, now = self.state.limiter, self.state.clock.now()
        if isinstance(error, RejectedError):
            self.results.reject(list(batch.items), error)
            return
        if isinstance(error, ThrottledError):
            batch.record_failure(error, is_attempt=False)
            limiter.on_throttled(error.retry_after)
            self.batcher.schedule(batch, now)
            return
        assert isinstance(error, NotSentError | UnavailableError), error
        limiter.on_failure()
        batch.failed_submits += 1
        fault = batch.record_failure(error)
        is_final = isinstance(error, UnavailableError) and not error.retryable
        if batch.failed_submits >= MAX_SUBMITS or is_final:
            self.results.fail(batch.items, fault)
        else:
            self.batcher.schedule(batch, now + retry_delay(batch.failed_submits))

    def _on_account_error(self, error: AccountError) -> None:
        """Keep the first error in ``account_error``, so that no more is sent. ``answer`` raises the error later."""
        if self.account_error is None:
            self.account_error, self.drain_until = error, self.state.clock.now() + DRAIN_S
