"""References in, rows out: the plain generator that all else is wiring over, and the transform for any pipeline."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ..core.records import Annotation, Failure, ImageRef, Job, Row
from ..images.fetch import Fetcher
from ..images.prefetch import Fetch, prefetch
from ..io.uris import is_utf8
from .pending import PendingRequests
from .row_queue import RowQueue

ANNOTATIONS, FAILURES = "annotations", "failures"
# References that an element-wise transform gathers before it answers them: many batches of any engine.
REFS_AT_ONCE = 256
# Closing ``annotate`` early waits this long for the annotator to give its next outcome or to pull its next request.
CLOSE_TIMEOUT_S = 10.0


def annotate(
    refs: Iterable[ImageRef],
    tasks: Sequence[Task],
    annotator: Annotator,
    *,
    sampling: Sampling = DEFAULT_SAMPLING,
    run: str = "",
    fetch: Fetch | None = None,
) -> Iterator[Row]:
    """Yield exactly one row for each task on each picture, in any order. No Beam pipeline is needed.

    An image that cannot be fetched or decoded is a Failure for each of its tasks, at once. Other images are unaffected.
    Images with the same bytes are asked once; the other rows copy the answer, with zero tokens and model time.

    Args:
        refs: the images; read in another thread.
        tasks: asked of each image that has no tasks of its own.
        run: the value of the ``run`` column.
        fetch: returns the bytes of a URI; None for ``Fetcher()``.

    Raises:
        Exception: whatever ``refs``, ``fetch`` or the annotator raised, other than a failure to load one image.
    """
    rows = RowQueue()
    pending = PendingRequests(Job(tuple(tasks), annotator, sampling, run), rows)
    pictures = prefetch(refs, fetch or Fetcher(), annotator.accepts_reduced, pending.fail_load)
    # A daemon, so that an annotator that never returns cannot keep the process alive.
    thread = threading.Thread(target=pending.answer, args=(pictures,), name="annotate", daemon=True)
    thread.start()
    try:
        yield from rows
    finally:
        rows.close()
        thread.join(CLOSE_TIMEOUT_S)


def check_tasks(tasks: Sequence[Task], annotator: Annotator) -> None:
    """Refuse what could only fail later, row by row.

    Raises:
        ValueError: there is no task, the same one twice, one that the annotator can't be asked, or one in no Unicode.
    """
    if not tasks:
        raise ValueError("no task: ask for a caption, a query, a detection or a point")
    for task in tasks:
        if tasks.count(task) > 1:
            raise ValueError(f"{task.name} {task.prompt!r} is asked twice")
        if type(task) not in annotator.tasks:
            raise ValueError(f"{annotator.name} can't be asked to {task.name}")
        if not is_utf8(task.prompt):
            raise ValueError(f"{task.name} {task.prompt!r} has bytes that are no UTF-8: write it in UTF-8")


class Annotated(NamedTuple):
    """What ``Annotate`` gives."""

    annotations: PCollection[Annotation]
    failures: PCollection[Failure]


class Annotate(beam.PTransform[PCollection[ImageRef], Annotated]):
    """Annotate pictures inside any pipeline: references in, ``(annotations, failures)`` out.

    Raises:
        ValueError: no task, or one that the annotator can't be asked.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        annotator: Annotator,
        *,
        sampling: Sampling = DEFAULT_SAMPLING,
        fetch: Fetcher | None = None,
    ) -> None:
        super().__init__()
        check_tasks(tasks, annotator)
        self.job, self.fetch = Job(tuple(tasks), annotator, sampling), fetch or Fetcher()

    def expand(self, refs: PCollection[ImageRef]) -> Annotated:
        """One step with two outputs."""
        rows = refs | "Annotate pictures" >> beam.ParDo(_AnnotatePictures(self.job, self.fetch)).with_outputs(
            ANNOTATIONS, FAILURES
        )
        return Annotated(rows[ANNOTATIONS], rows[FAILURES])


class _AnnotatePictures(beam.DoFn):
    """Gathers references, so that pictures of one bundle share batches; rows keep their reference's window."""

    def __init__(self, job: Job, fetch: Fetcher) -> None:
        self.job, self.fetch = job, fetch
        self.gathered: list[tuple[ImageRef, Timestamp, Any]] = []
        self._shared, self._shared_fetch = Shared(), Shared()

    def setup(self) -> None:
        self.job = share_annotator(self.job, self._shared)
        self.fetch = self._shared_fetch.acquire(lambda: self.fetch)

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
        for row in annotate(refs, self.job.tasks, self.job.annotator, sampling=self.job.sampling, fetch=self.fetch):
            timestamp, window = times[row.id].pop()
            tag = ANNOTATIONS if isinstance(row, Annotation) else FAILURES
            yield TaggedOutput(tag, WindowedValue(row, timestamp, (window,)))


def share_annotator(job: Job, shared: Shared) -> Job:
    """The job with the one copy of its annotator that this process uses: it holds the model."""
    annotator: Any = shared.acquire(lambda: job.annotator)
    return job._replace(annotator=annotator)
