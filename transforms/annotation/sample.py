"""A sample of the pictures, annotated for the sake of knowing how long all of them would take."""

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
from ..core.records import Annotation, ImageRef, Row
from ..images.prefetch import Fetch
from ..planning.locality import read_order
from .annotate import annotate, check_tasks

# Of these one at least can be expected to be whole.
FIRST = 4


class SampleResult(NamedTuple):
    """What a sample amounted to: seconds on the clock, once the annotator was ready, which took ``start_seconds``."""

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
    """The pictures of a sample, and how many pictures and requests there are in all."""

    refs: list[ImageRef]
    pictures: int
    requests: int


def sample(refs: PCollection[ImageRef], tasks: Sequence[Task], size: int, folder: Path) -> None:
    """Into a folder of this machine write what ``read_sample`` reads: the first ``size`` pictures by their keys, which
    are digests, so that they are a random sample and always the same."""
    asked = tuple(tasks)
    parts: dict[str, PCollection[Any]] = {
        "refs": refs | "Choose" >> Top.Smallest(size, key=lambda ref: ref.key),
        "pictures": refs | "Count" >> Count.Globally(),
        "requests": refs | "Ask" >> beam.Map(lambda ref: len(ref.tasks or asked)) | "Sum" >> beam.CombineGlobally(sum),
    }
    for name, part in parts.items():
        part | f"Keep {name}" >> beam.Map(partial(_keep, str(folder / name)))


def read_sample(folder: Path) -> Sample:
    """What ``sample`` left in this folder."""
    # Written by this very process or its workers, a moment ago.
    return Sample(*(pickle.loads((folder / name).read_bytes()) for name in Sample._fields))


def measure(
    refs: Sequence[ImageRef], tasks: Sequence[Task], annotator: Annotator, sampling: Sampling, fetch: Fetch
) -> SampleResult:
    """Annotate them, as a run would.

    The first pictures are annotated once more, in front and off the clock: the annotator loads with them.

    Raises:
        ValueError: there is no picture, or a task that the annotator can't be asked.
    """
    if not refs:
        raise ValueError("no picture to measure with")
    check_tasks(tasks, annotator)
    refs = sorted(refs, key=read_order)
    before = time.perf_counter()
    for _ in annotate(refs[:FIRST], tasks, annotator, sampling=sampling, fetch=fetch):
        pass
    started = time.perf_counter()
    rows: list[Row] = list(annotate(refs, tasks, annotator, sampling=sampling, fetch=fetch))
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


def _keep(path: str, value: Any) -> None:
    Path(path).write_bytes(pickle.dumps(value))
