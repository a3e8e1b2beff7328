"""The whole job as one transform: plan, annotate shard by shard, write, count, and record the run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.transforms.resources import parse_resource_hints
from apache_beam.utils.shared import Shared

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ..core.errors import INTERRUPTED, RunStopped, output_errors
from ..core.records import IGNORE_PROFILES, ColourProfiles, ImageRef, Job, check_colour_profiles
from ..core.row_schema import annotation_schema
from ..core.summary import Count, Summary, sum_summaries
from ..images.fetch import Fetcher
from ..monitoring.device_errors import device_errors, device_failure
from ..monitoring.failure_limit import FailureLimit
from ..monitoring.heartbeat import Heartbeat
from ..monitoring.progress_reporter import ProgressReporter
from ..monitoring.row_counts import CountRows
from ..output.answer_journal import OPEN_JOURNALS, AnswerJournal
from ..output.dataset_card import begin_card, update_card
from ..output.files import check_output_path, exists, is_local
from ..output.layout import CHECKPOINT_S, SHARD_SIZE, new_run_name, record_path
from ..output.locks.lock import lock_lost, worker_lock
from ..output.reader import check_schema
from ..output.writer import ShardWriter
from ..planning.plan import PlanShards, Shard
from .annotate import annotate_for, check_tasks, share_annotator
from .payment_journal import RecordingAnnotator, scope_of, stop_on_account_error, with_journal
from .run_end import record_run


class AnnotateToParquet(beam.PTransform[PCollection[ImageRef], PCollection[dict[str, Any]]]):
    """Annotate images into a folder of Parquet files. The result is the record of the run, one element.

    Requests that have a row in the output already are skipped. So a pipeline that was interrupted can be run again.

    Args:
        output: a folder, or a URL that begins with ``s3://``, ``gs://`` or ``azfs://``.
        shard_size: the approximate number of images in a file.
        min_shards: the minimum number of files, so that each worker has work.
        retry_errors: repeat the requests that have a row in ``errors/``.
        manifests: absolute patterns of the manifests that the references come from. With ``retry_errors``, rows in
            ``errors/`` about their broken lines are removed once the lines are correct.
        retry_changed: repeat the requests that have a row in ``data/`` if the bytes of their image have changed since.
            Each image that has such a row is then read once more.
        dedup: annotate images of the same bytes once in the whole run. Each image is then read twice.
        checkpoint_s: seconds between two checkpoints: a crash loses at most the answers of that time.
        max_failure_rate: stop the run early if a larger share of its rows are failures; 0 means no limit.
        run: a new name for this run; by default the present time.
        about: values that are copied into the record of the run.
        columns: the columns of a manifest that references have and rows keep.
        fetch: reads images; by default ``Fetcher()``.
        colour_profiles: "srgb" converts pixels from the ICC profile of an image to sRGB; "ignore" takes them as sRGB.

    Raises:
        ValueError: if there is no task, or a task that the annotator does not support; if the output has ``*``, ``?``
            or ``[`` in its name, cannot be written to, or has other columns; if ``shard_size`` is below 1; if
            ``colour_profiles`` is neither "ignore" nor "srgb"; or if a run of that name has ended.
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
        manifests: Sequence[str] = (),
        retry_changed: bool = False,
        dedup: bool = False,
        max_failure_rate: float = 0.0,
        checkpoint_s: float = CHECKPOINT_S,
        run: str | None = None,
        about: Mapping[str, Any] | None = None,
        columns: Sequence[pa.Field] = (),
        fetch: Fetcher | None = None,
        colour_profiles: ColourProfiles = IGNORE_PROFILES,
    ) -> None:
        super().__init__()
        check_tasks(tasks, annotator)
        if shard_size < 1:
            raise ValueError(f"shard size {shard_size}: give 1 or more")
        self.output = check_output_path(output)
        run = _check_run_name(run, self.output) if run else new_run_name()
        profiles = check_colour_profiles(colour_profiles)
        asked = with_journal(annotator, self.output, run)
        self.job = Job(tuple(tasks), asked, sampling, run, tuple(columns), profiles)
        check_schema(self.output, annotation_schema(columns))
        self.fetch = fetch or Fetcher()
        reads = {"dedup": self.fetch if dedup else None, "changed": self.fetch if retry_changed else None}
        self.plan = PlanShards(
            self.job, self.output, shard_size, min_shards, retry_errors=retry_errors, manifests=manifests, **reads
        )
        self.annotate_shard = AnnotateShard(self.job, self.output, max_failure_rate, checkpoint_s, self.fetch)
        self.about, self.started = dict(about or {}), time.time()
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
            >> beam.ParDo(self.annotate_shard, AsSingleton(plan.counts)).with_resource_hints(**self.hints)
            | "Sum up" >> beam.CombineGlobally(sum_summaries)
        )
        row_counts = summary | "Count what is published" >> CountRows(self.output, self.job.run)
        sides = (AsSingleton(plan.counts), AsSingleton(row_counts))
        return summary | "Record" >> beam.Map(record_run, *sides, self.job, self.output, self.about, self.started)


class AnnotateShard(beam.DoFn):
    """Annotate one shard, write its rows and publish its files. The output is the sums over its rows.

    A worker process of this machine whose device fails leaves this shard and all later ones to others.
    """

    def __init__(
        self,
        job: Job,
        output: str,
        max_failure_rate: float = 0.0,
        checkpoint_s: float = CHECKPOINT_S,
        fetch: Fetcher | None = None,
    ) -> None:
        self.job, self.output, self.fetch = job, output, fetch or Fetcher()
        self.max_failure_rate, self.checkpoint_s = max_failure_rate, checkpoint_s
        self._shared, self._shared_fetch = Shared(), Shared()
        self._device_failed = False

    def setup(self) -> None:
        """Share the annotator and the clients with the other copies of this step in this process."""
        self.job = share_annotator(self.job, self._shared)
        self.fetch = self._shared_fetch.acquire(lambda: self.fetch)

    def process(self, shard: Shard, plan: Count) -> Iterator[Summary]:
        """Skip a shard that an earlier attempt has published. ``plan`` is not used, but makes this step wait for it.

        Raises:
            RunStopped: if the run must stop: the lock is gone, too many rows failed, the output cannot be written, the
                API refuses the account, or this process has no memory or no device left.
        """
        number, refs = shard
        job, output = self.job, self.output
        with OPEN_JOURNALS.shard(), worker_lock(output, job.run) as lock, Heartbeat().working_on(number) as heartbeat:
            writer = ShardWriter(output, job.run, number, job.columns)
            with output_errors(output):
                if recovered := writer.recover_commit():
                    _update_card(output, job.run)
            if recovered or self._device_failed:
                yield writer.published_summary() if recovered else Summary(shards_left=1)
                return
            reporter = ProgressReporter(output, job.run, heartbeat)
            annotator = RecordingAnnotator(job.annotator, scope_of(job.run, number))
            with output_errors(output):
                begin_card(output, job.run)
            journal = AnswerJournal(writer, output, job.run, number, self.checkpoint_s)
            try:
                with journal, device_errors():
                    summary = self._write(journal, refs, reporter, annotator)
                if not lock.exists():
                    raise lock_lost(output, job.run)
                with output_errors(output):
                    if not writer.publish():
                        summary = writer.published_summary()
                    annotator.clear_journal()
                    _update_card(output, job.run)
                    journal.delete()
                    reporter.report(number, summary, published=True)
            except BaseException as error:
                writer.discard()
                if not self._leaves_shards(error, heartbeat):
                    raise
                summary = Summary(shards_left=1)
        yield summary

    def _leaves_shards(self, error: BaseException, heartbeat: Heartbeat) -> bool:
        """Return whether the device of this worker has failed, and the process that started it may use others.

        Without such a process, the runner repeats the shard elsewhere, or the run ends.
        """
        reason = device_failure(error) if heartbeat.is_watched else None
        if reason is not None:
            self._device_failed = True
            heartbeat.report_device_failure(reason)
        return reason is not None

    def _write(
        self,
        journal: AnswerJournal,
        refs: Iterable[ImageRef],
        reporter: ProgressReporter,
        annotator: RecordingAnnotator,
    ) -> Summary:
        """Annotate the images of a shard, and add each row to the writer. Return the sums over the rows.

        Requests whose rows an earlier attempt has kept are not made again.

        Raises:
            RunStopped: if a signal has interrupted this process.
        """
        limit = FailureLimit(self.max_failure_rate, reporter.run_summary)
        limit.check()
        job = self.job
        with output_errors(self.output):
            refs, summary = take_up(list(refs), job, journal)
        rows = annotate_for(job._replace(annotator=annotator), refs, self.fetch)
        for row in stop_on_account_error(rows):
            summary = summary.plus(row)
            with output_errors(self.output):
                journal.check()
                journal.writer.add(row)
                reported = reporter.report(journal.shard, summary, annotator.in_flight)
            if reported:
                limit.check()
        if INTERRUPTED.is_set():
            raise RunStopped("stopped: interrupted. Run the same command again to resume.")
        return summary


def take_up(refs: list[ImageRef], job: Job, journal: AnswerJournal) -> tuple[list[ImageRef], Summary]:
    """Add the rows that earlier attempts at a shard have kept to its writer.

    Returns:
        The references with the rows that were not kept, and the sums over the rows that were added.
    """
    kept = journal.kept()
    if not kept.ids:
        # Nearly always. The ids of a shard's rows are two digests each.
        return refs, Summary()
    kept = kept.only({job.row_id(ref, row) for ref in refs for row in ref.rows(job.tasks)})
    journal.writer.add_tables(*kept)
    done = kept.ids
    left = [ref.with_rows([row for row in ref.rows(job.tasks) if job.row_id(ref, row) not in done]) for ref in refs]
    sums = sum_summaries([Summary.from_annotations(kept.answers), Summary.from_failures(kept.failures)])
    return [ref for ref in left if ref.tasks], sums


def _update_card(output: str, run: str) -> None:
    """Give the card of a local output a new state, so that `datasets` loads the rows of this shard too.

    In a bucket, many workers would replace one object, which some stores limit to once a second.
    """
    if is_local(output):
        update_card(output, run)


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
