"""References in, rows out: the plain generator that all else is wiring over, and the transform for any pipeline."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import chain
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ..models.hosted.bill import Hosted
from ..models.tasks import DEFAULT_SAMPLING, Annotator, Answer, Fault, Outcome, Request, Sampling, Task
from .fetch import fetch
from .load import Fetch, Loaded, Unloadable, load_ahead
from .records import Annotation, Failure, ImageRef, Job, Row, RowTimings, Stage

ANNOTATIONS, FAILURES = "annotations", "failures"
# References that an element-wise transform gathers before it answers them: many batches of any engine.
REFS_AT_ONCE = 256


def annotate(
    refs: Iterable[ImageRef],
    tasks: Sequence[Task],
    annotator: Annotator,
    *,
    sampling: Sampling = DEFAULT_SAMPLING,
    run: str = "",
    fetch: Fetch = fetch,
) -> Iterator[Row]:
    """Exactly one row for each task on each picture, as they come ready; no Beam needed.

    A picture that can't be fetched or decoded is a Failure for each of its tasks, and its neighbours don't notice.
    """
    desk = _Desk(Job(tuple(tasks), annotator, sampling, run))
    requests = desk.requests(load_ahead(refs, fetch))
    for outcome in annotator.answer(requests):
        while desk.failures:
            yield desk.failures.popleft()
        yield desk.settle(outcome)
    yield from desk.unanswered()
    # An annotator that ended early has not even seen these.
    for _ in requests:
        yield from desk.unanswered()
    yield from desk.failures


@dataclass
class _Desk:
    """What is under way between the references that came in and the rows that go out."""

    job: Job
    failures: deque[Failure] = field(default_factory=deque)
    # Lists, since somebody may send the same request twice: it then has two rows.
    waiting: dict[str, list[tuple[Loaded, Task]]] = field(default_factory=dict)
    # An annotator may pull requests in one thread and give outcomes in another.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def requests(self, pictures: Iterable[Loaded | Unloadable]) -> Iterator[Request]:
        """A request for each task of each picture; pictures that could not be had become failures."""
        for loaded in pictures:
            for task in self.job.tasks_of(loaded.ref):
                if isinstance(loaded, Unloadable):
                    self.failures.append(self.failure(loaded.ref, task, loaded.stage, loaded.fault))
                    continue
                name = self.job.id_of(loaded.ref, task)
                with self.lock:
                    self.waiting.setdefault(name, []).append((loaded, task))
                yield Request(name, loaded.picture, task, self.job.sampling, loaded.ref.uri)

    def settle(self, outcome: Outcome) -> Row:
        """The row that an outcome amounts to.

        Raises:
            RuntimeError: nobody asked for it. An annotator that does so can't be trusted with the rest either.
        """
        with self.lock:
            if outcome.id not in self.waiting:
                raise RuntimeError(f"{self.job.annotator.name} answered {outcome.id}, which nobody asked")
            loaded, task = self.waiting[outcome.id].pop(0)
            if not self.waiting[outcome.id]:
                del self.waiting[outcome.id]
        if isinstance(outcome.result, Fault):
            return self.failure(loaded.ref, task, "answer", outcome.result, outcome.backend, outcome.hosted)
        return self.annotation(loaded, task, outcome.result, outcome)

    def unanswered(self) -> Iterator[Failure]:
        """A failure for each request that the annotator passed over in silence."""
        silence = Fault("Unanswered", f"{self.job.annotator.name} ended without an answer", retryable=True)
        with self.lock:
            passed_over, self.waiting = self.waiting, {}
        for loaded, task in chain.from_iterable(passed_over.values()):
            yield self.failure(loaded.ref, task, "answer", silence)

    def annotation(self, loaded: Loaded, task: Task, answer: Answer, outcome: Outcome) -> Annotation:
        """The row of ``data/``."""
        ref, job, took = loaded.ref, self.job, outcome.timings
        sharers = len(job.tasks_of(ref))
        return Annotation(
            id=outcome.id,
            key=ref.key,
            filename=ref.filename,
            uri=ref.uri,
            sha256=loaded.sha256,
            width=loaded.picture.width,
            height=loaded.picture.height,
            task=task.name,
            prompt=task.prompt,
            caption=answer.text,
            objects=answer.objects,
            points=answer.points,
            finish_reason=answer.finish_reason,
            input_tokens=outcome.tokens.input,
            output_tokens=outcome.tokens.output,
            timings=RowTimings(
                fetch_ms=loaded.fetch_ms / sharers,
                decode_ms=loaded.decode_ms / sharers,
                wait_ms=took.wait_ms,
                encode_ms=took.encode_ms,
                generate_ms=took.generate_ms,
                total_ms=1000 * (time.perf_counter() - loaded.started),
            ),
            backend=outcome.backend,
            model=outcome.model or job.annotator.name,
            revision=outcome.revision or job.annotator.revision,
            run=job.run,
            created_at=datetime.now(timezone.utc),
            hosted=outcome.hosted,
        )

    def failure(
        self,
        ref: ImageRef,
        task: Task,
        stage: Stage,
        fault: Fault,
        backend: str = "",
        hosted: Hosted | None = None,
    ) -> Failure:
        """The row of ``errors/``."""
        return Failure(
            id=self.job.id_of(ref, task),
            key=ref.key,
            filename=ref.filename,
            uri=ref.uri,
            task=task.name,
            prompt=task.prompt,
            stage=stage,
            error=fault.error,
            message=fault.message,
            retryable=fault.retryable,
            attempts=1,
            backend=backend,
            run=self.job.run,
            created_at=datetime.now(timezone.utc),
            hosted=hosted,
        )


def check_tasks(tasks: Sequence[Task], annotator: Annotator) -> None:
    """Refuse what could only fail later, row by row.

    Raises:
        ValueError: there is no task, the same one twice, or one that the annotator can't be asked.
    """
    if not tasks:
        raise ValueError("no task: ask for a caption, a query, a detection or a point")
    for task in tasks:
        if tasks.count(task) > 1:
            raise ValueError(f"{task.name} {task.prompt!r} is asked twice")
        if type(task) not in annotator.tasks:
            raise ValueError(f"{annotator.name} can't be asked to {task.name}")


class Annotated(NamedTuple):
    """What ``Annotate`` gives."""

    annotations: PCollection[Annotation]
    failures: PCollection[Failure]


class Annotate(beam.PTransform[PCollection[ImageRef], Annotated]):
    """Annotate pictures inside any pipeline: references in, ``(annotations, failures)`` out.

    Raises:
        ValueError: no task, or one that the annotator can't be asked.
    """

    def __init__(self, tasks: Sequence[Task], annotator: Annotator, *, sampling: Sampling = DEFAULT_SAMPLING) -> None:
        super().__init__()
        check_tasks(tasks, annotator)
        self.job = Job(tuple(tasks), annotator, sampling)

    def expand(self, refs: PCollection[ImageRef]) -> Annotated:
        """One step with two outputs."""
        rows = refs | "Annotate pictures" >> beam.ParDo(_AnnotatePictures(self.job)).with_outputs(ANNOTATIONS, FAILURES)
        return Annotated(rows[ANNOTATIONS], rows[FAILURES])


class _AnnotatePictures(beam.DoFn):
    """Gathers references, so that pictures of one bundle share batches; rows keep their reference's window."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.gathered: list[tuple[ImageRef, Timestamp, Any]] = []
        self._shared = Shared()

    def setup(self) -> None:
        self.job = share_annotator(self.job, self._shared)

    def start_bundle(self) -> None:
        self.gathered = []

    def process(
        self, ref: ImageRef, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> Iterator[TaggedOutput[str, Any]]:
        self.gathered.append((ref, timestamp, window))
        if len(self.gathered) == REFS_AT_ONCE:
            yield from self.flush()

    def finish_bundle(self) -> Iterator[TaggedOutput[str, Any]]:
        yield from self.flush()

    def flush(self) -> Iterator[TaggedOutput[str, Any]]:
        gathered, self.gathered = self.gathered, []
        # Lists, since one picture may come at several times: each of them has its rows.
        times: dict[str, list[tuple[Timestamp, Any]]] = {}
        for ref, *time_and_window in gathered:
            for task in self.job.tasks_of(ref):
                times.setdefault(self.job.id_of(ref, task), []).append(tuple(time_and_window))
        refs = [ref for ref, _, _ in gathered]
        for row in annotate(refs, self.job.tasks, self.job.annotator, sampling=self.job.sampling):
            timestamp, window = times[row.id].pop()
            tag = ANNOTATIONS if isinstance(row, Annotation) else FAILURES
            yield TaggedOutput(tag, WindowedValue(row, timestamp, (window,)))


def share_annotator(job: Job, shared: Shared) -> Job:
    """The job with the one copy of its annotator that this process uses: it holds the model."""
    annotator: Any = shared.acquire(lambda: job.annotator)
    return job._replace(annotator=annotator)
