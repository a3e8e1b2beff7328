"""Jobs that an API has accepted: polled until they end, and not sent again while they may be billed."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ...tasks import Fault
from ..http.errors import (
    AccountError,
    CallError,
    JobNotFoundError,
    LostAnswerError,
    MismatchedAnswerError,
    NotSentError,
    PollError,
    RejectedError,
    ThrottledError,
    UnavailableError,
)
from ..payment.journal import Entry
from ..service import Item, JobResult
from .batching import Batch
from .rate_limiter import retry_delay
from .results import ResultHandler, SharedState

log = logging.getLogger(__name__)


@dataclass(eq=False)
class InFlightJob:
    """A job that the API has accepted, with the items in its order; None for an item that this stream does not have.

    ``is_own``: this stream sent the job, so the job counts in the rate limiter and the budget until it ends.
    ``batch``: what was sent, with its counts of failures. ``failed_polls``: how many polls failed in a row.
    ``was_rechecked``: True once the API has reported a failure of the job, which is then polled a second time.
    """

    entry: Entry
    items: list[Item | None]
    is_own: bool
    started: float
    poll_at: float
    batch: Batch
    polls: int = 0
    failed_polls: int = 0
    was_rechecked: bool = False

    @property
    def present(self) -> list[Item]:
        """The items that this stream has."""
        return [item for item in self.items if item]

    def to_resend(self) -> Batch:
        """Return the batch to send again, with the items that this stream has."""
        return replace(self.batch, items=tuple(self.present))


@dataclass(eq=False)
class InFlightJobs:
    """The jobs in flight of one stream, in ``jobs``. Outcomes go to ``results.outcomes``."""

    state: SharedState
    results: ResultHandler
    jobs: list[InFlightJob] = field(default_factory=list)

    def add(self, entry: Entry, batch: Batch) -> None:
        """Add to ``jobs`` a job that the API has just accepted. The first poll is after ``poll_delay(0)`` seconds."""
        now = self.state.clock.now()
        poll_at = now + self.state.service.poll_delay(0)
        self.jobs.append(InFlightJob(entry, list(batch.items), True, now, poll_at, batch))

    def resume(self, entry: Entry, item: Item) -> None:
        """Add to ``jobs`` a job that another worker or stream has sent, to be polled now, with the one ``item``."""
        now = self.state.clock.now()
        items = [item if request_id == item.id else None for request_id in entry.request_ids]
        self.jobs.append(InFlightJob(entry, items, False, now, now, Batch((item,), now, now)))

    def attach(self, item: Item) -> bool:
        """Put an item at its place in a resumed job and return True. Return False if no resumed job lacks this item."""
        for job in self.jobs:
            if not job.is_own and item.id in job.entry.request_ids:
                index = job.entry.request_ids.index(item.id)
                if job.items[index] is None:
                    job.items[index] = item
                    return True
        return False

    def next_poll(self) -> float:
        """Return when the next job is to be polled, in seconds of the clock; infinity if there is no job."""
        return min((job.poll_at for job in self.jobs), default=float("inf"))

    def due(self) -> list[InFlightJob]:
        """Return the jobs that are to be polled now, because their time has come or they have ended."""
        ended, now = self.state.service.ended, self.state.clock.now()
        return [job for job in self.jobs if job.poll_at <= now or (ended is not None and job.entry.job in ended)]

    def close(self) -> None:
        """Remove all jobs, cancel those that this stream sent, and release their journal entries for a later stream.

        A job that can't be cancelled and whose result would be lost is polled once more, and its result is recorded.
        """
        service = self.state.service
        for job in list(self.jobs):
            with suppress(CallError, AccountError):
                if job.is_own and service.cancel(job.entry.job):
                    self.state.journal.update(job.entry, "cancelled")
                elif job.is_own and not service.keeps_results and (result := service.poll(job.entry.job)):
                    self._record_result(job, result)
            self._finish(job)

    def poll(self, job: InFlightJob) -> None:
        """Poll one job: complete it if it has ended, schedule the next poll if it runs, cancel it after the deadline.

        Raises:
            AccountError: if the API refuses the account. The job is then no longer in ``jobs``.
        """
        state = self.state
        job.polls += 1
        try:
            result = state.service.poll(job.entry.job)
        except AccountError:
            self._finish(job)
            if not state.service.keeps_results:
                # The call of the job was refused, so nothing was billed.
                state.journal.discard(job.entry)
            raise
        except PollError as error:
            self._on_failed_poll(job, error)
        except CallError as error:
            self._on_failed_job(job, error)
        else:
            job.failed_polls = 0
            if state.service.keeps_results:
                state.limiter.on_response()
            if result is not None:
                state.limiter.on_success()
                self._complete(job, result)
                return
            job.poll_at = state.clock.now() + state.service.poll_delay(job.polls)
        if job in self.jobs and state.clock.now() - job.started > state.service.deadline_s:
            self._cancel_overdue(job)

    def _complete(self, job: InFlightJob, result: JobResult) -> None:
        """Write a job's result to budget and journal, and put an outcome for each item into ``results.outcomes``.

        If the answer does not match the items, delete the journal entry and call ``results.mismatched``.
        """
        self._record_result(job, result)
        self._finish(job)
        self.results.charge(job.entry, job.present)
        try:
            self.results.deliver(job.entry, job.items)
        except MismatchedAnswerError as error:
            self.state.journal.discard(job.entry)
            self.results.mismatched(job.to_resend(), error)

    def _record_result(self, job: InFlightJob, result: JobResult) -> None:
        """Add a job's cost to the budget, and write its answer and cost to its journal entry, with the state "done"."""
        entry = job.entry
        entry.answer = result.answer
        entry.units, entry.usd, entry.estimated = self.state.budget.record(result, len(entry.request_ids))
        self.state.journal.update(entry, "done")

    def _on_failed_poll(self, job: InFlightJob, error: PollError) -> None:
        """Set the time of the next poll in ``poll_at``. The job itself has not failed, so the job is not sent again."""
        state = self.state
        job.failed_polls += 1
        if error.retry_after is None:
            state.limiter.on_failure()
            delay = retry_delay(job.failed_polls)
        else:
            delay = state.limiter.on_throttled(error.retry_after)
        log.debug("a poll of job %s failed: %s", job.entry.job, error)
        job.poll_at = state.clock.now() + max(delay, state.service.poll_delay(job.polls))

    def _on_failed_job(self, job: InFlightJob, error: CallError) -> None:
        """Add a fault for each item of a job that has failed, or schedule the items again if the job was not billed."""
        state, entry = self.state, job.entry
        retryable = isinstance(error, UnavailableError) and error.retryable
        if retryable and state.service.keeps_results and not job.was_rechecked:
            # A second poll is free, and the failure may have been one of the API's front end only.
            job.was_rechecked = True
            job.poll_at = state.clock.now() + retry_delay(1)
            return
        self._finish(job)
        if isinstance(error, LostAnswerError) or (isinstance(error, JobNotFoundError) and entry.state != "cancelled"):
            state.limiter.on_failure(job=True)
            self.results.mark_lost(job.present, str(error))
            return
        state.journal.discard(entry)
        if isinstance(error, RejectedError):
            entry.units, entry.usd = error.units, error.usd
            state.budget.record_rejected(entry.units, entry.usd)
            self.results.charge(entry, job.present)
            self.results.reject(job.items, error)
        elif isinstance(error, ThrottledError):
            state.limiter.on_throttled(error.retry_after)
            self.results.resend(job.to_resend(), split=False)
        elif isinstance(error, JobNotFoundError):
            self.results.resend(job.to_resend(), split=False)
        else:
            assert isinstance(error, NotSentError | UnavailableError), error
            state.limiter.on_failure(job=True)
            self._resubmit(job, error, retryable or isinstance(error, NotSentError))

    def _resubmit(self, job: InFlightJob, error: CallError, retryable: bool) -> None:
        """Schedule a failed job again; after ``max_resubmits`` failures its halves. A single item then gets a fault."""
        batch = job.to_resend()
        batch.failed_jobs += 1
        fault = batch.record_failure(error)
        if retryable and batch.failed_jobs <= self.state.service.max_resubmits:
            self.results.batcher.schedule(batch, self.state.clock.now() + retry_delay(batch.failed_jobs))
        elif len(batch.items) > 1:
            # A single picture may make the API fail. Halves find it.
            self.results.resend(batch, split=True)
        else:
            self.results.fail(batch.items, fault, job.entry.job)

    def _cancel_overdue(self, job: InFlightJob) -> None:
        """Cancel a job after ``deadline_s``, and add a ``Timeout`` fault for each item unless it has ended by now."""
        service, entry = self.state.service, job.entry
        cancelled = False
        with suppress(CallError):
            cancelled = service.cancel(entry.job)
        if not cancelled:
            with suppress(CallError):
                if (result := service.poll(entry.job)) is not None:
                    self._complete(job, result)
                    return
        self.state.journal.update(entry, "cancelled" if cancelled else "accepted")
        self._finish(job)
        message = (
            f"no answer within {service.deadline_s:.0f} s; the job may have been billed: "
            "run again with --retry-errors to ask again"
        )
        self.results.fail(job.present, Fault("Timeout", message, retryable=True), entry.job)

    def _finish(self, job: InFlightJob) -> None:
        """Remove a job; return what an own job holds in the rate limiter and the budget, and release its entry."""
        self.jobs.remove(job)
        if job.is_own:
            self.state.limiter.release()
            self.state.budget.release(len(job.items))
            self.state.journal.release(job.entry)
