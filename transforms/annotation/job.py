"""The whole job as one transform: plan, annotate shard by shard, write, count, and record the run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import apache_beam as beam
import pyarrow as pa
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
from ..monitoring.progress import ProgressFiles, ProgressReporter
from ..monitoring.row_counts import CountRows, RowCounts
from ..output.dataset_card import write_card
from ..output.files import check_output_path, exists
from ..output.layout import new_run_name, record_path
from ..output.lock import lock_lost, release, worker_lock
from ..output.run_record import job_metadata, write_record
from ..output.writer import ShardWriter, check_schema
from ..planning.dedup import delete_content_keys
from ..planning.plan import PlanShards, Shard
from .annotate import annotate, check_tasks, share_annotator
from .payment_journal import RecordingAnnotator, scope_of, stop_on_account_error, with_journal

SHARD_SIZE = 1000


class AnnotateToParquet(beam.PTransform[PCollection[ImageRef], PCollection[dict[str, Any]]]):
    """Annotate images into a folder of Parquet files. The result is the record of the run, one element.

    Requests that have a row in the output already are skipped. So a pipeline that was interrupted can be run again.

    Args:
        output: a folder, or a URL that begins with ``s3://``, ``gs://`` or ``azfs://``.
        shard_size: the approximate number of images in a file.
        min_shards: the minimum number of files, so that each worker has work.
        retry_errors: repeat the requests that have a row in ``errors/``.
        dedup: annotate images of the same bytes once in the whole run. Each image is then read twice.
        max_failure_rate: stop the run early if a larger share of its rows are failures; 0 means no limit.
        run: a new name for this run; by default the present time and four random hex digits.
        about: values that are copied into the record of the run.
        columns: the columns of a manifest that references have and rows keep.
        fetch: reads images; by default ``Fetcher()``.

    Raises:
        ValueError: if there is no task, or a task that the annotator does not support; if the output has ``*``, ``?``
            or ``[`` in its name, cannot be written to, or has other columns; if ``shard_size`` is below 1; or if a run
            of that name has ended.
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
        run = _check_run_name(run, self.output) if run else new_run_name()
        self.job = Job(tuple(tasks), with_journal(annotator, self.output, run), sampling, run, tuple(columns))
        check_schema(self.output, annotation_schema(columns))
        self.fetch = fetch or Fetcher()
        reads = self.fetch if dedup else None
        self.plan = PlanShards(self.job, self.output, shard_size, min_shards, retry_errors=retry_errors, dedup=reads)
        self.max_failure_rate = max_failure_rate
        self.about = dict(about or {})
        self.hints: dict[str, Any] = {}

    def with_resource_hints(self, **hints: Any) -> AnnotateToParquet:
        """Give Beam's resource hints to the step that runs the model. The other steps need no accelerator.

        Raises:
            ValueError: if Beam does not know a hint, or does not accept its value.
        """
        parse_resource_hints(hints)
        self.hints.update(hints)
        return self

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[dict[str, Any]]:
        """Plan, annotate, count and record. Only paths and sums go from step to step."""
        plan = refs | "Plan" >> self.plan
        summary = (
            plan.shards
            | "Annotate shards"
            >> beam.ParDo(
                _AnnotateShard(self.job, self.output, self.max_failure_rate, self.fetch), AsSingleton(plan.counts)
            ).with_resource_hints(**self.hints)
            | "Sum up" >> beam.CombineGlobally(sum_summaries)
        )
        row_counts = summary | "Count what is published" >> CountRows(self.output, self.job.run)
        sides = (AsSingleton(plan.counts), AsSingleton(row_counts))
        return summary | "Record" >> beam.Map(_record_run, *sides, self.job, self.output, self.about, time.time())


class _AnnotateShard(beam.DoFn):
    """Annotate one shard, write its rows and publish its files. The output is the sums over its rows."""

    def __init__(self, job: Job, output: str, max_failure_rate: float = 0.0, fetch: Fetcher | None = None) -> None:
        self.job, self.output, self.max_failure_rate, self.fetch = job, output, max_failure_rate, fetch or Fetcher()
        self._shared, self._shared_fetch = Shared(), Shared()

    def setup(self) -> None:
        self.job = share_annotator(self.job, self._shared)
        self.fetch = self._shared_fetch.acquire(lambda: self.fetch)

    def process(self, shard: Shard, plan: Count) -> Iterator[Summary]:
        """Skip a shard that an earlier attempt has published. ``plan`` is not used, but makes this step wait for it.

        Raises:
            RunStopped: if the run must stop: the lock is gone, too many rows failed, the output cannot be written, the
                API refuses the account, or this process has no memory left.
        """
        number, refs = shard
        job, output = self.job, self.output
        with worker_lock(output, job.run) as lock, Heartbeat().working_on(number) as heartbeat:
            writer = ShardWriter(output, job.run, number, job.columns)
            with output_errors(output):
                recovered = writer.recover_commit()
            if recovered:
                yield writer.published_summary()
                return
            reporter = ProgressReporter(output, job.run, heartbeat)
            annotator = RecordingAnnotator(job.annotator, scope_of(job.run, number))
            try:
                with out_of_memory_errors():
                    summary = self._write(writer, refs, reporter, number, annotator)
                if not lock.exists():
                    raise lock_lost(output, job.run)
                with output_errors(output):
                    if not writer.publish():
                        summary = writer.published_summary()
                    annotator.clear_journal()
                    reporter.report(number, summary, published=True)
            except BaseException:
                writer.discard()
                raise
        yield summary

    def _write(
        self,
        writer: ShardWriter,
        refs: Iterable[ImageRef],
        reporter: ProgressReporter,
        number: int,
        annotator: Annotator,
    ) -> Summary:
        """Annotate the images of a shard, and add each row to the writer. Return the sums over the rows."""
        summary = Summary()
        limit = FailureLimit(self.max_failure_rate, reporter.run_summary)
        limit.check()
        job = self.job
        rows = annotate(refs, job.tasks, annotator, sampling=job.sampling, run=job.run, fetch=self.fetch)
        for row in stop_on_account_error(rows):
            summary = summary.plus(row)
            with output_errors(self.output):
                writer.add(row)
                reported = reporter.report(number, summary)
            if reported:
                limit.check()
        return summary


def _check_run_name(run: str, output: str) -> str:
    """Return the name.

    Raises:
        ValueError: if the name cannot be part of a file name, or if a run of that name has ended.
    """
    if set(run) & set("*?[/\\"):
        raise ValueError(f"run {run}: choose a name without *, ?, [, / and \\, because it is part of file names")
    if exists(record_path(output, run)):
        raise ValueError(f"run {run}: a run of this name has ended in {output}, choose another name")
    return run


def balances(count: Count, summary: Summary, row_counts: RowCounts) -> bool | None:
    """Return whether each planned request has one row, by the sums of the workers and by the published files.

    Returns:
        None if the published files could not be counted.
    """
    if row_counts.count_error:
        return None
    reported = (summary.annotations, summary.failures)
    return count.pending == summary.rows and reported == (row_counts.data, row_counts.errors)


def _record_run(
    summary: Summary,
    count: Count,
    row_counts: RowCounts,
    job: Job,
    output: str,
    about: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    """Write and return the record of a run, and write the dataset card. Then delete the run's temporary files and lock.

    Args:
        started: when the pipeline was built, in seconds since 1970.
    """
    numbers = count._asdict()
    skipped = numbers.pop("skipped")
    del numbers["shared"]
    values = {
        "run": job.run,
        **about,
        **job_metadata(job),
        "counts": {**numbers, "annotations": summary.annotations, "failures": summary.failures},
        "requests": count.requests,
        "skipped": {each.kind: {"count": each.count, "example": each.example} for each in skipped},
        "published": row_counts._asdict(),
        "balanced": balances(count, summary, row_counts),
        "totals": {name: getattr(summary, name) for name in summary._fields[2:]},
        "started_at": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - started, 3),
    }
    # Options may contain names of files that are not UTF-8. Neither JSON nor the report can hold those.
    record: dict[str, Any] = json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
    with output_errors(output):
        delete_content_keys(output, job.run)
        write_card(output, job.columns, job.run)
        write_record(output, job.run, record)
        ProgressFiles(output, job.run).remove()
    release(output, job.run)
    return record
