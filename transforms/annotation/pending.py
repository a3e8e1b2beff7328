"""Requests in flight: pictures become requests, outcomes become rows, pictures of the same bytes share a request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterable
from contextlib import closing
from datetime import datetime, timezone
from itertools import chain
from typing import NamedTuple

from ...models.hosted.payment.billing import Billing
from ...models.structured.answers import answer_structured
from ...models.tasks import Answer, Fault, Outcome, Request, Task
from ..core.errors import INTERRUPTED
from ..core.records import IGNORE_PROFILES, Annotation, Failure, ImageRef, Job, Row, RowTimings, Stage, WantedRow
from ..images.prefetch import Loaded, LoadFailure
from ..io.uris import display_uri
from .row_queue import RowQueue
from .shared_iterator import SharedIterator

# Answers that are kept for later pictures of the same bytes. A shard of the default size has fewer.
MAX_KEPT_ANSWERS = 16_384
# Copies that may wait for one answer. The next copy asks the same again, because a million pictures of the same bytes
# would otherwise fill the memory.
MAX_COPIES = 1024

LoadedPictures = Generator[Loaded | LoadFailure, None, None]


class Waiter(NamedTuple):
    """One task on one picture whose answer is pending. Holds no pixels, so that waiting copies take little memory.

    ``rows`` are the rows of this task, which share the answer. ``started`` is on the clock of ``time.perf_counter``.
    """

    ref: ImageRef
    rows: list[WantedRow]
    sha256: str
    width: int
    height: int
    started: float
    fetch_ms: float
    decode_ms: float


class PendingRequests:
    """Requests that the annotator has pulled and not yet answered, with the pictures that wait for each answer.

    A question is one task on the bytes of a picture; ``Job.request_id`` is its id. Pictures of the same bytes have the
    same question. Each row that the job wants of each picture becomes exactly one row in ``rows``.
    """

    def __init__(self, job: Job, rows: RowQueue) -> None:
        self.job, self._rows = job, rows
        # By question: the waiters of each request in flight. The first waiter of each list was sent to the annotator.
        self._waiting: dict[str, list[list[Waiter]]] = {}
        self._answered: OrderedDict[str, Outcome] = OrderedDict()
        # An annotator may pull requests in one thread and yield outcomes in another.
        self._lock = threading.Lock()

    def answer(self, pictures: LoadedPictures) -> None:
        """Run the annotator until all pictures have their rows, then close ``pictures`` and finish the row queue.

        Runs in a thread. An error of the annotator or of ``pictures`` finishes the row queue, whose consumer raises it.
        """
        requests = SharedIterator(self._requests(pictures))
        try:
            with closing(pictures), closing(requests), closing(self._outcomes(requests)) as outcomes:
                for outcome in outcomes:
                    self.resolve(outcome)
                # An annotator that ended early has left these requests unpulled.
                for _ in requests:
                    self.fail_unanswered()
                self.fail_unanswered()
        except BaseException as error:
            self._rows.finish(error)
        else:
            self._rows.finish()

    def _outcomes(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        yield from answer_structured(self.job.annotator.answer, requests)

    def _requests(self, pictures: LoadedPictures) -> Generator[Request, None, None]:
        """Yield a request for each new question, until a signal interrupts this process.

        Load failures are skipped: ``fail_load`` has put their rows already.
        """
        for loaded in pictures:
            self._rows.wait_for_room()
            if INTERRUPTED.is_set():
                return
            if isinstance(loaded, LoadFailure):
                continue
            wanted = loaded.ref.rows(self.job.tasks)
            for task, rows in _by_task(wanted).items():
                question = self.job.request_id(loaded.sha256, task)
                if self._is_new(question, self._waiter(loaded, rows, len(wanted))):
                    # An API that fetched the URI would see pixels that are not converted.
                    uri = loaded.ref.uri if self.job.colour_profiles == IGNORE_PROFILES else None
                    sampling = self.job.sampling
                    yield Request(question, loaded.picture, task, sampling, uri, loaded.size)

    def fail_listed(self, ref: ImageRef) -> ImageRef | None:
        """Put a Failure into the row queue for each row that can't be asked.

        Returns:
            The reference with the other rows; None if there are none, or if a signal has interrupted this process.
        """
        self._rows.wait_for_room()
        if INTERRUPTED.is_set():
            return None
        if not (ref.problem or ref.problems):
            return ref
        wanted = ref.rows(self.job.tasks)
        for row in wanted:
            if row.problem is not None:
                self._rows.put(self._failure(ref, row, "list", Fault("ValueError", row.problem.message)))
        left = [row for row in wanted if row.problem is None]
        return ref.with_rows(left) if left else None

    def fail_load(self, failure: LoadFailure) -> None:
        """Put a Failure into the row queue for each row of a picture that could not be loaded. Never block."""
        for row in failure.ref.rows(self.job.tasks):
            self._rows.put(self._failure(failure.ref, row, failure.stage, failure.fault))

    def resolve(self, outcome: Outcome) -> None:
        """Put the rows of each picture that waits for this outcome into the row queue.

        The first row has the outcome's timings, tokens and bill; ``copy_of`` makes the others. A fault is not kept: a
        later picture of the same bytes asks again.

        Raises:
            RuntimeError: if no request in flight has the outcome's id. Then no answer of the annotator can be trusted.
        """
        with self._lock:
            if outcome.id not in self._waiting:
                name = self.job.annotator.name
                raise RuntimeError(
                    f"{name} answered {outcome.id}, which is not in flight: correct Annotator.answer to return each "
                    "request's id once"
                )
            first, *others = self._waiting[outcome.id].pop(0)
            if not self._waiting[outcome.id]:
                del self._waiting[outcome.id]
            if isinstance(outcome.result, Answer):
                self._answered[outcome.id] = outcome
                if len(self._answered) > MAX_KEPT_ANSWERS:
                    self._answered.popitem(last=False)
        self._put_rows(first, outcome)
        for waiter in others:
            self._put_rows(waiter, copy_of(outcome))

    def fail_unanswered(self) -> None:
        """Put a ``NoAnswer`` Failure into the row queue for each row that waits for an answer."""
        fault = Fault(
            "NoAnswer", f"{self.job.annotator.name} gave no outcome; run again with --retry-errors", retryable=True
        )
        with self._lock:
            unanswered, self._waiting = self._waiting, {}
        for waiter in chain.from_iterable(chain.from_iterable(unanswered.values())):
            for row in waiter.rows:
                self._put(self._failure(waiter.ref, row, "answer", fault))

    def _put_rows(self, waiter: Waiter, outcome: Outcome) -> None:
        """Put the rows of a picture into the row queue. All but the first have the outcome of ``copy_of``."""
        for row in waiter.rows:
            self._put(self._row(waiter, row, outcome))
            outcome = copy_of(outcome)

    def _put(self, row: Row) -> None:
        self._rows.wait_for_room()
        self._rows.put(row)

    def _is_new(self, question: str, waiter: Waiter) -> bool:
        """Return True if the question needs a request of its own.

        Otherwise the waiter's rows are put into the row queue at once, or with the outcome of a request in flight.
        """
        with self._lock:
            known = self._answered.get(question)
            if known is None:
                in_flight = self._waiting.setdefault(question, [])
                if in_flight and len(in_flight[-1]) < MAX_COPIES:
                    in_flight[-1].append(waiter)
                    return False
                in_flight.append([waiter])
                return True
            self._answered.move_to_end(question)
        self._put_rows(waiter, copy_of(known))
        return False

    def _waiter(self, loaded: Loaded, rows: list[WantedRow], num_rows: int) -> Waiter:
        # The rows of a picture share its load times equally, so that sums over rows are right.
        return Waiter(
            ref=loaded.ref,
            rows=rows,
            sha256=loaded.sha256,
            width=loaded.size[0],
            height=loaded.size[1],
            started=loaded.started,
            fetch_ms=loaded.fetch_ms / num_rows,
            decode_ms=loaded.decode_ms / num_rows,
        )

    def _row(self, waiter: Waiter, row: WantedRow, outcome: Outcome) -> Row:
        if isinstance(outcome.result, Fault):
            return self._failure(waiter.ref, row, "answer", outcome.result, outcome.backend, outcome.hosted)
        return self._annotation(waiter, row, outcome.result, outcome)

    def _annotation(self, waiter: Waiter, row: WantedRow, answer: Answer, outcome: Outcome) -> Annotation:
        ref, job, took = waiter.ref, self.job, outcome.timings
        return Annotation(
            id=job.row_id(ref, row),
            key=ref.key,
            filename=row.filename,
            uri=display_uri(ref.uri),
            sha256=waiter.sha256,
            width=waiter.width,
            height=waiter.height,
            task=row.task.name,
            prompt=row.task.prompt,
            caption=answer.text,
            objects=answer.objects,
            points=answer.points,
            finish_reason=answer.finish_reason,
            input_tokens=outcome.tokens.input,
            output_tokens=outcome.tokens.output,
            timings=RowTimings(
                fetch_ms=waiter.fetch_ms,
                decode_ms=waiter.decode_ms,
                wait_ms=took.wait_ms,
                encode_ms=took.encode_ms,
                generate_ms=took.generate_ms,
                total_ms=1000 * (time.perf_counter() - waiter.started),
            ),
            backend=outcome.backend,
            model=outcome.model or job.annotator.name,
            revision=outcome.revision or job.annotator.revision,
            run=job.run,
            created_at=datetime.now(timezone.utc),
            hosted=outcome.hosted,
            byte_offset=ref.byte_range[0],
            byte_size=ref.byte_range[1],
            reasoning=answer.reasoning,
            columns=row.columns,
        )

    def _failure(
        self,
        ref: ImageRef,
        row: WantedRow,
        stage: Stage,
        fault: Fault,
        backend: str = "",
        hosted: Billing | None = None,
    ) -> Failure:
        return Failure(
            id=self.job.row_id(ref, row),
            key=ref.key,
            filename=row.filename,
            uri=display_uri(ref.uri),
            task=row.task.name,
            prompt=row.task.prompt if row.problem is None else row.problem.prompt,
            stage=stage,
            error=fault.error,
            message=fault.message,
            retryable=fault.retryable,
            attempts=fault.attempts,
            backend=backend,
            run=self.job.run,
            created_at=datetime.now(timezone.utc),
            hosted=hosted,
            byte_offset=ref.byte_range[0],
            byte_size=ref.byte_range[1],
            columns=row.columns,
        )


def _by_task(rows: Iterable[WantedRow]) -> dict[Task, list[WantedRow]]:
    by_task: dict[Task, list[WantedRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    return by_task


def copy_of(outcome: Outcome) -> Outcome:
    """Return the outcome for another row of a request, with zero timings, zero tokens and no ``hosted``."""
    return Outcome(outcome.id, outcome.result, outcome.backend, model=outcome.model, revision=outcome.revision)
