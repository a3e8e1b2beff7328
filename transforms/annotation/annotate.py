"""``annotate``, the generator from references to rows, and ``Annotate``, the Beam transform around it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task, supports
from ..core.records import (
    IGNORE_PROFILES,
    Annotation,
    ColourProfiles,
    Failure,
    ImageRef,
    Job,
    Row,
    as_picture,
    check_colour_profiles,
)
from ..images.fetch import Fetcher
from ..images.prefetch import Fetch, prefetch
from ..io.uris import is_utf8
from .pending import PendingRequests
from .row_queue import RowQueue

ANNOTATIONS, FAILURES = "annotations", "failures"
# References that the DoFn of Annotate gathers and then annotates together, so that the engine gets full batches.
MAX_GATHERED_REFS = 256
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
    colour_profiles: ColourProfiles = IGNORE_PROFILES,
) -> Iterator[Row]:
    """Yield exactly one row for each task on each picture, in any order. Needs no Beam pipeline.

    A picture that cannot be fetched or decoded becomes a Failure for each of its tasks at once, and no other picture is
    affected. Pictures of the same bytes are asked once: the first row has the tokens and times, others copy only the
    answer. Closing the generator ends its threads, after the annotator's next outcome or next request.

    Args:
        refs: references to the pictures; iterated in another thread.
        tasks: the tasks for pictures whose reference has no tasks.
        run: the value of the ``run`` column.
        fetch: returns the bytes at a URI; None means ``Fetcher()``.
        colour_profiles: "srgb" converts pixels from the ICC profile of a picture to sRGB; "ignore" takes them as sRGB.

    Raises:
        ValueError: if ``colour_profiles`` has another value.
        Exception: any error of ``refs`` or of the annotator, and an error of ``fetch`` that is neither an OSError nor a
            ValueError nor a FetchError.
    """
    profiles = check_colour_profiles(colour_profiles)
    yield from annotate_for(Job(tuple(tasks), annotator, sampling, run, colour_profiles=profiles), refs, fetch)


def annotate_for(job: Job, refs: Iterable[ImageRef], fetch: Fetch | None = None) -> Generator[Row, None, None]:
    """Yield the rows that a job makes of the pictures, as ``annotate`` does."""
    rows = RowQueue()
    pending = PendingRequests(job, rows)
    accepts_reduced = job.annotator.accepts_reduced
    askable = filter(None, map(pending.fail_listed, refs))
    pictures = prefetch(askable, fetch or Fetcher(), accepts_reduced, pending.fail_load, job.colour_profiles)
    # A daemon thread, because an annotator that never returns would keep the process alive at exit.
    thread = threading.Thread(target=pending.answer, args=(pictures,), name="annotate", daemon=True)
    thread.start()
    try:
        yield from rows
    finally:
        rows.close()
        thread.join(CLOSE_TIMEOUT_S)


def check_tasks(tasks: Sequence[Task], annotator: Annotator) -> None:
    """Check the tasks before any work starts.

    Raises:
        ValueError: if there is no task, if a task is given twice, if the annotator does not support a task or
            reasoning, or if a prompt cannot be encoded in UTF-8.
    """
    if not tasks:
        raise ValueError("no task: give a caption, a query, a detection or a point")
    for task in tasks:
        if tasks.count(task) > 1:
            raise ValueError(f"{task.name} {task.prompt!r} is given twice: give each task once")
        if type(task) not in annotator.tasks:
            supported = ", ".join(sorted(kind.name for kind in annotator.tasks))
            model = f"the model {annotator.name}"
            raise ValueError(f"{model} can't be asked to {task.name}, only for {supported}: leave the others out")
        if not supports(annotator, task):
            raise ValueError(f"{annotator.name} does not reason: ask without reasoning, or choose another model")
        if not is_utf8(task.prompt):
            raise ValueError(f"{task.name} {task.prompt!r} is not valid UTF-8: write it in UTF-8")


class Annotated(NamedTuple):
    """The two outputs of ``Annotate``: rows of answered tasks and rows of failed tasks."""

    annotations: PCollection[Annotation]
    failures: PCollection[Failure]


class Annotate(beam.PTransform[PCollection[ImageRef], Annotated]):
    """Annotate pictures in any pipeline. The output is ``Annotated(annotations, failures)``.

    The rows are those of ``annotate``, with an empty ``run``. Each row keeps the timestamp and window of its reference.

    Raises:
        ValueError: if ``check_tasks`` rejects the tasks, or ``colour_profiles`` is neither "ignore" nor "srgb".
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        annotator: Annotator,
        *,
        sampling: Sampling = DEFAULT_SAMPLING,
        fetch: Fetcher | None = None,
        colour_profiles: ColourProfiles = IGNORE_PROFILES,
    ) -> None:
        super().__init__()
        check_tasks(tasks, annotator)
        profiles = check_colour_profiles(colour_profiles)
        self.job, self.fetch = Job(tuple(tasks), annotator, sampling, colour_profiles=profiles), fetch or Fetcher()

    def expand(self, refs: PCollection[ImageRef]) -> Annotated:
        """Add one ParDo with two outputs."""
        rows = refs | "Annotate pictures" >> beam.ParDo(_AnnotatePictures(self.job, self.fetch)).with_outputs(
            ANNOTATIONS, FAILURES
        )
        return Annotated(rows[ANNOTATIONS], rows[FAILURES])


class _AnnotatePictures(beam.DoFn):
    """Gather up to ``MAX_GATHERED_REFS`` references of a bundle, annotate them, and emit their rows.

    A row keeps the timestamp and window of its reference.
    """

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
        if (picture := as_picture(ref)) is None:
            return
        self.gathered.append((picture, timestamp, window))
        if len(self.gathered) == MAX_GATHERED_REFS:
            yield from self.flush()

    def finish_bundle(self) -> Iterator[TaggedOutput[str, Any]]:
        yield from self.flush()

    def flush(self) -> Iterator[TaggedOutput[str, Any]]:
        gathered, self.gathered = self.gathered, []
        # Lists, because one reference may come several times, and each of its timestamps gets its own rows.
        times: dict[str, list[tuple[Timestamp, Any]]] = {}
        for ref, *time_and_window in gathered:
            for wanted in ref.rows(self.job.tasks):
                times.setdefault(self.job.row_id(ref, wanted), []).append(tuple(time_and_window))
        for row in annotate_for(self.job, [ref for ref, _, _ in gathered], self.fetch):
            timestamp, window = times[row.id].pop()
            tag = ANNOTATIONS if isinstance(row, Annotation) else FAILURES
            yield TaggedOutput(tag, WindowedValue(row, timestamp, (window,)))


def share_annotator(job: Job, shared: Shared) -> Job:
    """Return the job with the annotator that all DoFns with this ``shared`` use in this process.

    The annotator holds the model, so each process needs one copy.
    """
    annotator: Any = shared.acquire(lambda: job.annotator)
    return job._replace(annotator=annotator)
