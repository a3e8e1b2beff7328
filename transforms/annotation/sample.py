"""The sample of ``moondream-beam estimate``: choose random pictures, annotate them, measure the time and the cost."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.combiners import Count, Top

from ...models.tasks import Annotator, Sampling, Task
from ..core.records import IGNORE_PROFILES, Annotation, ColourProfiles, ImageRef, Row
from ..core.shuffle import Packed, PackRefs
from ..images.prefetch import Fetch
from ..planning.input_rows import merge_all
from ..planning.locality import read_order
from .annotate import annotate, check_tasks

# Images that are annotated before the clock starts, to load the model. Several, because some may fail to load.
NUM_WARMUP_PICTURES = 4


class SampleResult(NamedTuple):
    """What it took to annotate a sample. ``rows`` counts answers and failures together.

    ``start_seconds`` is the wall time of the warm-up with the model load. ``seconds`` is the wall time of the sample
    after the warm-up. ``usd`` is what hosted APIs billed for the sample. ``backend`` is empty if no task was answered.
    """

    pictures: int
    rows: int
    failures: int
    start_seconds: float
    seconds: float
    input_tokens: int
    output_tokens: int
    usd: float
    backend: str


class Sample(NamedTuple):
    """References of a sample, and the numbers of ``pictures`` and ``requests`` in the whole input."""

    refs: list[ImageRef]
    pictures: int
    requests: int


def sample(refs: PCollection[ImageRef], tasks: Sequence[Task], size: int, folder: Path) -> None:
    """Add steps to the pipeline that write a sample into a local folder, where ``read_sample`` reads it.

    The sample is the ``size`` pictures with the smallest keys. Keys are digests: the sample is random and repeatable.
    Each picture has one request for each task, even if several rows of the input ask the same.
    """
    asked = tuple(tasks)
    refs = (
        refs
        | "Pack references" >> beam.ParDo(PackRefs()).with_output_types(Packed)
        | "By picture" >> beam.GroupByKey()
        | "Each picture once" >> beam.FlatMapTuple(lambda _, packs: map(_requests_once, merge_all(packs, asked)))
    )
    parts: dict[str, PCollection[Any]] = {
        "refs": refs | "Choose" >> Top.Smallest(size, key=lambda ref: ref.key),
        "pictures": refs | "Count" >> Count.Globally(),
        "requests": refs | "Ask" >> beam.Map(lambda ref: len(ref.tasks)) | "Sum" >> beam.CombineGlobally(sum),
    }
    for name, part in parts.items():
        part | f"Keep {name}" >> beam.Map(partial(_keep, str(folder / name)))


def read_sample(folder: Path) -> Sample:
    """Return the sample that the finished pipeline of ``sample`` left in this folder."""
    # Unpickling is safe: this process or its workers wrote these files a moment ago.
    return Sample(*(pickle.loads((folder / name).read_bytes()) for name in Sample._fields))


def measure(
    refs: Sequence[ImageRef],
    tasks: Sequence[Task],
    annotator: Annotator,
    sampling: Sampling,
    fetch: Fetch,
    colour_profiles: ColourProfiles = IGNORE_PROFILES,
) -> SampleResult:
    """Annotate the pictures, in the order of a run, and measure the time and the cost.

    The first ``NUM_WARMUP_PICTURES`` pictures are annotated twice; their first time counts only in ``start_seconds``.

    Raises:
        ValueError: if there is no picture, or if ``check_tasks`` rejects the tasks.
    """
    if not refs:
        raise ValueError("no picture to measure with: give an input that has pictures")
    check_tasks(tasks, annotator)
    refs = sorted(refs, key=read_order)

    def rows_of(some: Sequence[ImageRef]) -> list[Row]:
        return list(annotate(some, tasks, annotator, sampling=sampling, fetch=fetch, colour_profiles=colour_profiles))

    before = time.perf_counter()
    rows_of(refs[:NUM_WARMUP_PICTURES])
    started = time.perf_counter()
    rows = rows_of(refs)
    seconds = time.perf_counter() - started
    good = [row for row in rows if isinstance(row, Annotation)]
    return SampleResult(
        pictures=len(refs),
        rows=len(rows),
        failures=len(rows) - len(good),
        start_seconds=started - before,
        seconds=seconds,
        input_tokens=sum(row.input_tokens for row in good),
        output_tokens=sum(row.output_tokens for row in good),
        usd=sum((row.hosted.usd or 0.0) for row in rows if row.hosted),
        backend=good[0].backend if good else "",
    )


def _requests_once(ref: ImageRef) -> ImageRef:
    return ref._replace(tasks=tuple(dict.fromkeys(ref.tasks)), columns=(), origins=())


def _keep(path: str, value: Any) -> None:
    Path(path).write_bytes(pickle.dumps(value))
