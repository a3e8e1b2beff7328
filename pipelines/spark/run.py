"""The resumable job on Spark: plan on the driver, annotate one shard a task, record on the driver."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    AzureOptions,
    GoogleCloudOptions,
    HadoopFileSystemOptions,
    PipelineOptions,
    S3Options,
)
from apache_beam.pvalue import PCollection

from ...transforms.annotation.job import AnnotateToParquet
from ...transforms.annotation.run_end import end_interrupted, record_run
from ...transforms.core.errors import RunStopped, stop_reason
from ...transforms.core.records import ImageRef
from ...transforms.core.shuffle import pack
from ...transforms.core.summary import Summary, sum_summaries
from ...transforms.io.retry import RetryPolicy
from ...transforms.monitoring.progress import ProgressFiles
from ...transforms.monitoring.row_counts import count_run
from ...transforms.output.locks.lock import delete_temporary_files, run_lock, wait_alone
from ...transforms.output.locks.lock_file import RunLock
from ...transforms.planning.plan import Shard
from ..display.progress import show_progress
from ..local_runner.runner import local_runner
from ..local_runner.signals import Interrupt, unwrap_keyboard_interrupt
from .cluster import check_gpus, context_of, run_in_group
from .stop import STOP_S, request_stop, withdraw_stop
from .worker import ShardTask, annotator_digest

# Spark ends the Python worker of an attempt that it no longer needs within some seconds. Until then the attempt holds
# the lock, and it may write.
ATTEMPTS_END_S = 30.0

# The options of Beam that the clients of buckets read.
CLIENT_OPTIONS = (AzureOptions, GoogleCloudOptions, HadoopFileSystemOptions, S3Options)

AddInputs = Callable[[beam.Pipeline], PCollection[ImageRef]]

logger = logging.getLogger(__name__)


def check_client_options(words: Sequence[str]) -> None:
    """Check that Beam's options, as words of a command line, are all for the clients of buckets.

    Raises:
        ValueError: if one is for Beam's runners or workers, such as --dry_run. Spark would ignore it.
    """
    options = PipelineOptions(list(words))
    ignored = options.get_all_options(drop_default=True)
    for kind in CLIENT_OPTIONS:
        for name in options.view_as(kind).get_all_options(drop_default=True, current_only=True):
            ignored.pop(name, None)
    if ignored:
        name = next(iter(ignored))
        raise ValueError(f"--{name} is an option for Beam's runners, which Spark would ignore: leave it out")


def run_job(spark: Any, job: AnnotateToParquet, add_inputs: AddInputs, options: Sequence[str] = ()) -> dict[str, Any]:
    """Do the whole job on a cluster, show its progress on standard error, and return the record of the run.

    Args:
        job: the job; its steps of Beam are used for the plan only.
        add_inputs: adds the references of the job to the pipeline of the plan, which runs on the driver.
        options: Beam's options as words of a command line, for the clients of buckets of driver and executors.

    Raises:
        OutputLockedError: if another run holds the lock of the output.
        RunStopped: if the run stopped early for a known reason. The same call resumes it.
        KeyboardInterrupt: if the driver is interrupted. What the run has kept is published then.
    """
    context, output, run = context_of(spark), job.output, job.job.run
    needs_gpu = check_gpus(context, job.job.annotator)
    task = ShardTask(job.annotate_shard, annotator_digest(job.job.annotator), needs_gpu, tuple(options))
    with run_lock(output, run) as lock:
        with show_progress(ProgressFiles(output, run)), _attempts_ended(lock, output), _ends(job, lock):
            started = time.time()
            with tempfile.TemporaryDirectory(prefix="moondream-beam-") as folder:
                _plan(job, add_inputs, PipelineOptions(list(options)), folder)
                shards = sorted(_shards(folder))
            count = ProgressFiles(output, run).read_plan()
            assert count is not None, "the plan is recorded before its shards are known"

            def annotate() -> list[Summary]:
                return context.parallelize(shards, len(shards)).mapPartitions(task).collect() if shards else []

            names = f"moondream-beam {run}", f"annotate into {output}"
            stop = partial(request_stop, output, run)
            summary = sum_summaries(run_in_group(context, *names, annotate, stop, STOP_S))
            row_counts = count_run(output, run, RetryPolicy())
            record = record_run(summary, count, row_counts, job.job, output, job.about, started)
        delete_temporary_files(output, run)
    return record


@contextlib.contextmanager
def _attempts_ended(lock: RunLock, output: str) -> Iterator[None]:
    """After the block, wait for the attempts that Spark no longer needs. Until then they hold the lock."""
    try:
        yield
    finally:
        if not wait_alone(lock, ATTEMPTS_END_S):
            logger.warning(
                "an attempt of a task still holds the lock of %s: wait until Spark has ended the application before"
                " you run the job again",
                output,
            )


@contextlib.contextmanager
def _ends(job: AnnotateToParquet, lock: RunLock) -> Iterator[None]:
    """Publish what a run has kept if the block is interrupted, and raise its errors as ``RunStopped`` if they are one.

    Raises:
        RunStopped: in place of an error that it has caused.
    """
    started = time.time()
    try:
        yield
    except KeyboardInterrupt as interrupt:
        message = "interrupted: run the same command again to resume, once Spark has ended its tasks"
        alone = wait_alone(lock, ATTEMPTS_END_S)
        withdraw_stop(job.output, job.job.run)
        if alone:
            cause = str(interrupt) or signal.SIGINT.name
            message = end_interrupted(job.job, job.output, job.about, started, cause)
        if isinstance(interrupt, Interrupt):
            interrupt.message = message
        else:
            logger.warning(message)
        raise
    except RunStopped:
        raise
    except Exception as error:
        if reason := stop_reason(error):
            raise RunStopped(reason) from error
        raise


def _plan(job: AnnotateToParquet, add_inputs: AddInputs, options: PipelineOptions, folder: str) -> None:
    """Plan the run in this process, and write the references of each shard, packed, to a file in ``folder``."""
    pipeline = beam.Pipeline(local_runner(options, 1), options=options)
    plan = add_inputs(pipeline) | "Plan" >> job.plan
    plan.shards | "Write shards" >> beam.Map(_write_shard, folder)
    with unwrap_keyboard_interrupt():
        pipeline.run().wait_until_finish()


def _write_shard(shard: Shard, folder: str) -> None:
    number, refs = shard
    Path(folder, str(number)).write_bytes(pack(list(refs)))


def _shards(folder: str) -> Iterator[tuple[int, bytes]]:
    for path in Path(folder).iterdir():
        yield int(path.name), path.read_bytes()
