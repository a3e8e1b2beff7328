"""What is under way between the references that came in and the rows that go out."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from itertools import chain
from typing import NamedTuple

from ...models.billing import Billing
from ...models.tasks import Answer, Fault, Outcome, Request, Task
from ..core.records import Annotation, Failure, ImageRef, Job, Row, RowTimings, Stage
from ..images.prefetch import Loaded, LoadFailure
from ..io.uris import shown

# Answers that are remembered for pictures of the same bytes that are yet to come: those of a shard, whatever is asked.
ANSWERS_KEPT = 16_384
# Copies that may wait for one answer, or to go out. Beyond them the same is asked anew, as rows only go out in between
# requests: a million pictures of the same bytes would otherwise fill the memory.
COPIES_AT_ONCE = 1024
# Failures that wait for so long to go out need no outcome to do so: whoever asks for the next request gets none then,
# where a host that is down would let hours pass without a row.
LONGEST_WAIT_SECONDS = 600.0


class Waiter(NamedTuple):
    """One task on one picture that somebody waits for. Without its pixels: a copy of a picture under way needs none."""

    ref: ImageRef
    task: Task
    sha256: str
    width: int
    height: int
    started: float
    fetch_ms: float
    decode_ms: float


class PendingRequests:
    """Requests go out, each question once; outcomes come in and are made rows, one for everybody who asked.

    A question is a task on the bytes of a picture: pictures of the same bytes ask the same.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        # By question: who waits for each request that is under way, the first of them being the one that was asked.
        self._waiting: dict[str, list[list[Waiter]]] = {}
        self._answered: OrderedDict[str, Outcome] = OrderedDict()
        self._rows: deque[Row] = deque()
        self._last_out = time.monotonic()
        # Whether requests ended before the pictures did.
        self.has_paused = False
        # An annotator may pull requests in one thread and give outcomes in another.
        self._lock = threading.Lock()

    def requests(self, pictures: Iterable[Loaded | LoadFailure]) -> Iterator[Request]:
        """A request for each new task of each picture; pictures that could not be had became failures.

        It pauses where these have waited too long: what is left of the pictures is for another call.
        """
        self.has_paused = False
        for loaded in pictures:
            for task in self.job.tasks_of(loaded.ref):
                if isinstance(loaded, LoadFailure):
                    self._rows.append(self._failure(loaded.ref, task, loaded.stage, loaded.fault))
                    continue
                question = self.job.question_of(loaded.sha256, task)
                if self._is_new(question, self._asked(loaded, task)):
                    uri, sampling = loaded.ref.uri, self.job.sampling
                    yield Request(question, loaded.picture, task, sampling, uri, loaded.size)
            if isinstance(loaded, LoadFailure) and time.monotonic() - self._last_out >= LONGEST_WAIT_SECONDS:
                self.has_paused = True
                return

    def settle(self, outcome: Outcome) -> Iterator[Row]:
        """The rows that an outcome amounts to: one for each who waited for it.

        Raises:
            RuntimeError: nobody asked for it. An annotator that does so can't be trusted with the rest either.
        """
        with self._lock:
            if outcome.id not in self._waiting:
                raise RuntimeError(f"{self.job.annotator.name} answered {outcome.id}, which nobody asked")
            first, *others = self._waiting[outcome.id].pop(0)
            if not self._waiting[outcome.id]:
                del self._waiting[outcome.id]
            # What failed is asked again, if somebody should.
            if isinstance(outcome.result, Answer):
                self._answered[outcome.id] = outcome
                if len(self._answered) > ANSWERS_KEPT:
                    self._answered.popitem(last=False)
        yield self._row(first, outcome)
        for asked in others:
            yield self._row(asked, copy_of(outcome))

    def ready(self) -> Iterator[Row]:
        """Rows that needed no outcome."""
        self._last_out = time.monotonic()
        while self._rows:
            yield self._rows.popleft()

    def unanswered(self) -> Iterator[Failure]:
        """A failure for each request that the annotator passed over in silence."""
        silence = Fault("NoAnswer", f"{self.job.annotator.name} ended without an answer", retryable=True)
        with self._lock:
            passed_over, self._waiting = self._waiting, {}
        for asked in chain.from_iterable(chain.from_iterable(passed_over.values())):
            yield self._failure(asked.ref, asked.task, "answer", silence)

    def _is_new(self, question: str, asked: Waiter) -> bool:
        """Whether this has to be asked. Otherwise a row is ready, or will be with that of another."""
        with self._lock:
            known = self._answered.get(question)
            if known is None or len(self._rows) >= COPIES_AT_ONCE:
                under_way = self._waiting.setdefault(question, [])
                if under_way and len(under_way[-1]) < COPIES_AT_ONCE:
                    under_way[-1].append(asked)
                    return False
                under_way.append([asked])
                return True
            self._answered.move_to_end(question)
        self._rows.append(self._row(asked, copy_of(known)))
        return False

    def _asked(self, loaded: Loaded, task: Task) -> Waiter:
        # What tasks share is shared out, so that sums over rows are real.
        sharers = len(self.job.tasks_of(loaded.ref))
        return Waiter(
            ref=loaded.ref,
            task=task,
            sha256=loaded.sha256,
            width=loaded.size[0],
            height=loaded.size[1],
            started=loaded.started,
            fetch_ms=loaded.fetch_ms / sharers,
            decode_ms=loaded.decode_ms / sharers,
        )

    def _row(self, asked: Waiter, outcome: Outcome) -> Row:
        if isinstance(outcome.result, Fault):
            return self._failure(asked.ref, asked.task, "answer", outcome.result, outcome.backend, outcome.hosted)
        return self._annotation(asked, outcome.result, outcome)

    def _annotation(self, asked: Waiter, answer: Answer, outcome: Outcome) -> Annotation:
        ref, job, took = asked.ref, self.job, outcome.timings
        return Annotation(
            id=job.id_of(ref, asked.task),
            key=ref.key,
            filename=ref.filename,
            uri=shown(ref.uri),
            sha256=asked.sha256,
            width=asked.width,
            height=asked.height,
            task=asked.task.name,
            prompt=asked.task.prompt,
            caption=answer.text,
            objects=answer.objects,
            points=answer.points,
            finish_reason=answer.finish_reason,
            input_tokens=outcome.tokens.input,
            output_tokens=outcome.tokens.output,
            timings=RowTimings(
                fetch_ms=asked.fetch_ms,
                decode_ms=asked.decode_ms,
                wait_ms=took.wait_ms,
                encode_ms=took.encode_ms,
                generate_ms=took.generate_ms,
                total_ms=1000 * (time.perf_counter() - asked.started),
            ),
            backend=outcome.backend,
            model=outcome.model or job.annotator.name,
            revision=outcome.revision or job.annotator.revision,
            run=job.run,
            created_at=datetime.now(timezone.utc),
            hosted=outcome.hosted,
            byte_offset=ref.byte_range[0],
            byte_size=ref.byte_range[1],
            columns=ref.columns_of(asked.task),
        )

    def _failure(
        self,
        ref: ImageRef,
        task: Task,
        stage: Stage,
        fault: Fault,
        backend: str = "",
        hosted: Billing | None = None,
    ) -> Failure:
        return Failure(
            id=self.job.id_of(ref, task),
            key=ref.key,
            filename=ref.filename,
            uri=shown(ref.uri),
            task=task.name,
            prompt=task.prompt,
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
        )


def copy_of(outcome: Outcome) -> Outcome:
    """The same answer for a picture of the same bytes: time, tokens and money that it took are on the first row."""
    return Outcome(outcome.id, outcome.result, outcome.backend, model=outcome.model, revision=outcome.revision)
