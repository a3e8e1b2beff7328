"""The whole job as one transform: plan, annotate shard by shard, write, and record what was done."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.transforms.resources import parse_resource_hints
from apache_beam.utils.shared import Shared

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ..core.errors import out_of_memory_errors, output_errors
from ..core.records import ImageRef, Job, annotation_schema
from ..core.summary import Count, Summary, sum_summaries
from ..images.fetch import Fetcher
from ..monitoring.failure_limit import FailureLimit
from ..monitoring.heartbeat import Heartbeat
from ..monitoring.progress import ProgressFiles
from ..monitoring.row_counts import CountRows, RowCounts
from ..output.files import check_output_path, exists
from ..output.lock import lock_lost, release, worker_lock
from ..output.run_record import job_metadata, record_path, write_card, write_record
from ..output.writer import ShardWriter, check_schema
from ..planning.dedup import delete_content_keys
from ..planning.plan import PlanShards, Shard
from .annotate import annotate, check_tasks, share_annotator
from .payment_journal import RecordingAnnotator, scope_of, stop_on_account_error, with_journal

SHARD_SIZE = 1000
NAMESPACE = "moondream_beam"


class AnnotateToParquet(beam.PTransform[PCollection[ImageRef], PCollection[dict[str, Any]]]):
    """Annotate pictures into a folder of Parquet files; run again, it does only what is missing.

    ``shard_size`` pictures go into a file, about; ``min_shards`` makes smaller ones, so that each worker has some.
    ``retry_errors`` asks anew what is in ``errors/``. ``dedup`` asks pictures of the same bytes once in the whole run,
    and reads each twice to that end. A ``max_failure_rate`` above 0 ends the run early if a larger share fails.
    ``columns`` are those of a manifest that references bring and rows keep. ``run`` is a new name for this run.
    ``about`` is kept in the run's record. The result is that record, one element.

    Raises:
        ValueError: no task, a task that the annotator can't be asked, an output that looks like a glob, or a run of
            that name has ended.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        annotator: Annotator,
        output: str,
        *,
        sampling: Sampling = DEFAULT_SAMPLING,
        shard_size: int = SHARD_SIZE,
        min_shards: int = 1,
        retry_errors: bool = False,
        dedup: bool = False,
        max_failure_rate: float = 0.0,
        run: str | None = None,
        about: Mapping[str, Any] | None = None,
        columns: Sequence[pa.Field] = (),
        fetch: Fetcher | None = None,
    ) -> None:
        super().__init__()
        check_tasks(tasks, annotator)
        if shard_size < 1:
            raise ValueError(f"shard size {shard_size}: give 1 or more")
        self.output = check_output_path(output)
        run = _checked(run, self.output) if run else new_run()
        self.job = Job(tuple(tasks), with_journal(annotator, self.output, run), sampling, run, tuple(columns))
        check_schema(self.output, annotation_schema(columns))
        self.fetch = fetch or Fetcher()
        self.plan = PlanShards(
            self.job,
            self.output,
            shard_size,
            min_shards,
            retry_errors=retry_errors,
            dedup=self.fetch if dedup else None,
        )
        self.max_failure_rate = max_failure_rate
        self.about = dict(about or {})
        self.hints: dict[str, Any] = {}

    def with_resource_hints(self, **hints: Any) -> AnnotateToParquet:
        """Hints as Beam knows them, for the step that runs the model: who plans and sums up needs no accelerator.

        Raises:
            ValueError: Beam knows no such hint, or it has no such value.
        """
        parse_resource_hints(hints)
        self.hints.update(hints)
        return self

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[dict[str, Any]]:
        """Only paths and rows of sums go from stage to stage."""
        plan = refs | "Plan" >> self.plan
        summary = (
            plan.shards
            | "Annotate shards"
            >> beam.ParDo(
                _AnnotateShard(self.job, self.output, self.max_failure_rate, self.fetch), AsSingleton(plan.counts)
            ).with_resource_hints(**self.hints)
            | "Sum up" >> beam.CombineGlobally(sum_summaries)
        )
        published = summary | "Count what is published" >> CountRows(self.output, self.job.run)
        sides = (AsSingleton(plan.counts), AsSingleton(published))
        return summary | "Record" >> beam.Map(_record, *sides, self.job, self.output, self.about, time.time())


class _AnnotateShard(beam.DoFn):
    """One shard at a time: its rows stream through the annotator into its files."""

    def __init__(self, job: Job, output: str, max_failure_rate: float = 0.0, fetch: Fetcher | None = None) -> None:
        self.job, self.output, self.max_failure_rate, self.fetch = job, output, max_failure_rate, fetch or Fetcher()
        self._shared, self._shared_fetch = Shared(), Shared()

    def setup(self) -> None:
        self.job = share_annotator(self.job, self._shared)
        self.fetch = self._shared_fetch.acquire(lambda: self.fetch)

    def process(self, shard: Shard, plan: Count) -> Iterator[Summary]:
        """Annotate, write and publish, unless an earlier attempt at this shard of this run did. ``plan`` comes first:
        the notes of a shard mean nothing without it."""
        number, refs = shard
        with worker_lock(self.output, self.job.run) as token, Heartbeat().working_on(number) as pulse:
            writer = ShardWriter(self.output, self.job.run, number, self.job.columns)
            with output_errors(self.output):
                finished = writer.finish()
            if finished:
                yield writer.published_summary()
                return
            notes, annotator = (
                ProgressFiles(self.output, self.job.run),
                RecordingAnnotator(self.job.annotator, scope_of(self.job.run, number)),
            )
            try:
                with out_of_memory_errors():
                    summary = self._write(writer, refs, notes, number, annotator, pulse)
                if not token.is_there():
                    raise lock_lost(self.output, self.job.run)
                with output_errors(self.output):
                    if not writer.publish():
                        summary = writer.published_summary()
                    annotator.clear_journal()
                    notes.tell(number, summary, last=True)
            except BaseException:
                writer.discard()
                raise
        for name in ("annotations", "failures", "output_tokens"):
            Metrics.counter(NAMESPACE, name).inc(getattr(summary, name))
        yield summary

    def _write(
        self,
        writer: ShardWriter,
        refs: Iterable[ImageRef],
        notes: ProgressFiles,
        number: int,
        annotator: Annotator,
        pulse: Heartbeat,
    ) -> Summary:
        summary = Summary()
        # Of a run into an object store, whose notes would be requests, a worker sees the shard that it is at.
        limit = FailureLimit(self.max_failure_rate, lambda: notes.read()[1] if notes.folder else summary)
        limit.check()
        job = self.job
        rows = annotate(refs, job.tasks, annotator, sampling=job.sampling, run=job.run, fetch=self.fetch)
        for row in stop_on_account_error(rows):
            summary = summary.plus(row)
            with output_errors(self.output):
                writer.add(row)
                told = notes.tell(number, summary)
            pulse.report(number, summary.rows)
            if told:
                limit.check()
        return summary


def _checked(run: str, output: str) -> str:
    if set(run) & set("*?[/\\"):
        raise ValueError(f"run {run}: choose a name without *, ?, [, / and \\, as files are called by it")
    if exists(record_path(output, run)):
        raise ValueError(f"run {run}: {output} has one of this name, choose another")
    return run


def new_run() -> str:
    """A name for a run: when it was planned, and a chance that nobody else was at the same second."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:4]}"


def balances(count: Count, told: Summary, found: RowCounts) -> bool | None:
    """Whether each request has one row, as the workers told and as the files say; None where nobody could count."""
    if found.uncounted:
        return None
    return count.pending == told.rows and (told.annotations, told.failures) == (found.data, found.errors)


def _record(
    summary: Summary,
    count: Count,
    found: RowCounts,
    job: Job,
    output: str,
    about: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    told = {
        "run": job.run,
        **about,
        **job_metadata(job),
        "counts": {**count._asdict(), "annotations": summary.annotations, "failures": summary.failures},
        "published": found._asdict(),
        "balanced": balances(count, summary, found),
        "totals": {name: getattr(summary, name) for name in summary._fields[2:]},
        "started_at": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - started, 3),
    }
    # Options may name files that are no UTF-8, which neither Beam nor a page can hold.
    record: dict[str, Any] = json.loads(json.dumps(told, ensure_ascii=False).encode(errors="replace"))
    with output_errors(output):
        delete_content_keys(output, job.run)
        write_card(output, job.columns)
        write_record(output, job.run, record)
    release(output, job.run)
    return record
