"""``moondream-beam annotate``: ask a model about pictures, and write the answers to Parquet files."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import PCollection

from ...models.moondream.devices import choose_device
from ...models.moondream.names import OFFICIAL
from ...models.tiny import NOTE
from ...transforms.annotation.job import AnnotateToParquet
from ...transforms.annotation.run_end import SHARDS_LEFT, end_interrupted
from ...transforms.core.errors import RunStopped, stop_reason
from ...transforms.core.records import ImageRef
from ...transforms.monitoring.device_errors import no_device_left
from ...transforms.monitoring.progress import ProgressFiles
from ...transforms.output.locks.lock import OutputLockedError, acquire, run_lock
from ...transforms.output.run_record import DEVICE_FAILURES, read_record
from ...transforms.planning.limit import LimitPictures
from ..building.inputs import Inputs, build_inputs
from ..building.job import build_job, set_default_workers
from ..building.models import build_annotator
from ..building.pipeline import is_dry_run, keep_slice, read_inputs
from ..display.answers import format_answers, format_next_steps
from ..display.progress import show_progress
from ..display.run_summary import exit_status, format_summary
from ..local_runner.dofn_specs import inspect_once
from ..local_runner.gpus import choose_gpus
from ..local_runner.portable.dataflow import failure_reason, interrupt_message
from ..local_runner.portable.job_service import JobService, job_service
from ..local_runner.runner import LocalRunner, local_runner
from ..local_runner.signals import Interrupt, unwrap_keyboard_interrupt, worker_loss_reason
from ..options.backends.hosted import extra_row_s
from ..options.backends.openai import OPENAI, start_line
from ..options.backends.transformers import TRANSFORMERS
from ..options.cluster import new_run_name, resource_hints, runner_warning
from ..options.job import LOCAL_RUNNER, SPARK
from ..options.parser import OneLineParser, StartupError, reject_unknown_args, startup_errors
from ..options.tasks import comma_note
from .report import report_after_run

STOPPED_EARLY = 1


def build(
    pipeline: beam.Pipeline, args: argparse.Namespace, run: str, inputs: Inputs | None = None, *, here: bool = True
) -> AnnotateToParquet:
    """Add all steps of the job to a pipeline. Return the transform that does the job.

    Args:
        run: the name of the run.
        inputs: the inputs of ``args``, if they are built already.
        here: the workers run on this machine.

    Raises:
        ValueError: if an option has a bad value, an input has no pictures, or the model does not exist.
        OSError: if an input cannot be read.
        RuntimeError: if a client for a bucket is not installed, or the weights cannot be downloaded.
    """
    set_default_workers(args)
    inputs = inputs or build_inputs(args)
    annotator = build_annotator(args, threads_per_worker(args) if here else None, here=here)
    job = build_job(args, inputs, annotator, run, args.workers)
    _read_refs(pipeline, inputs, args) | "Annotate" >> job.with_resource_hints(**resource_hints(args))
    _print_notes(inputs)
    return job


def _read_refs(pipeline: beam.Pipeline, inputs: Inputs, args: argparse.Namespace) -> PCollection[ImageRef]:
    """Return the references of the job: those of the inputs, within ``--limit`` and ``--slice``."""
    refs = read_inputs(pipeline, inputs)
    if args.limit is not None:
        refs = refs | "Limit" >> LimitPictures(args.limit)
    return keep_slice(refs, args)


def _print_notes(inputs: Inputs) -> None:
    for note in inputs.columns.notes:
        print(note, file=sys.stderr)


def run(args: argparse.Namespace, beam_arguments: Sequence[str], inputs: Inputs, *, show_answers: bool = False) -> int:
    """Run the command and return its exit status.

    Args:
        beam_arguments: the arguments that our parser did not understand.
        inputs: what ``check_annotate`` returned for ``args``.
        show_answers: print a few answers at the end, also if standard output is no terminal.

    Returns:
        0 or 1 by ``run_summary.exit_status``; 1 also if the run stopped early; 0 after a dry run.

    Raises:
        StartupError: if an argument is bad, a requirement is missing, or another run uses the output.
    """
    if args.engine == SPARK:
        return _run_on_spark(args, beam_arguments, inputs, show_answers)
    with inspect_once(), contextlib.ExitStack() as stack:
        with startup_errors():
            name = new_run_name(args)
            set_default_workers(args)
            pipeline = _new_pipeline(args, beam_arguments)
            service = stack.enter_context(job_service(args.runner, pipeline.options))
            job = build(pipeline, args, name, inputs, here=(here := service.works_here))
            if is_dry_run(args, pipeline.options):
                pipeline.run()
                print("dry run: the job was built for Dataflow; nothing was started, and nothing was written")
                return 0
            if service.ends_with_command:
                stack.enter_context(run_lock(args.output, name))
            else:
                # The workers keep the lock alive from here on, because they may outlive this process.
                acquire(args.output, name)
            _print_start(args, here=here)
        if service.ends_with_command:
            stack.enter_context(show_progress(ProgressFiles(args.output, name)))
        read = partial(_read_refs, inputs=inputs, args=args)
        if (reason := _run_shards(pipeline, job, read, service)) is not None:
            print(f"moondream-beam annotate: {reason}", file=sys.stderr)
            return STOPPED_EARLY
    return _finish(args, read_record(args.output, name), show_answers)


def _run_on_spark(args: argparse.Namespace, beam_arguments: Sequence[str], inputs: Inputs, show_answers: bool) -> int:
    """Run the command on a Spark cluster and return its exit status, as ``run`` does."""
    with contextlib.ExitStack() as stack:
        with startup_errors():
            beam_options(args, beam_arguments)
            name = new_run_name(args)
            # Only now, because the start of Java takes seconds.
            from ..spark.run import check_client_options, run_job
            from ..spark.session import spark_session

            check_client_options(beam_arguments)
            session = stack.enter_context(spark_session(args.master))
            annotator = build_annotator(args, session.task_cpus, here=False)
            job = build_job(args, inputs, annotator, name, session.tasks_at_once)
            _print_notes(inputs)
            session.check(annotator)
        try:
            record = run_job(session.spark, job, lambda pipeline: _read_refs(pipeline, inputs, args), beam_arguments)
        except OutputLockedError as error:
            raise StartupError(str(error)) from error
        except RunStopped as error:
            print(f"moondream-beam annotate: {error}", file=sys.stderr)
            return STOPPED_EARLY
    return _finish(args, record, show_answers)


def _finish(args: argparse.Namespace, record: Mapping[str, Any], show_answers: bool) -> int:
    """Print the summary of a run, write the report if asked to, and return the exit status."""
    print(format_summary(record, args.output, args.max_failure_rate))
    _print_end(args, record["run"], show_answers or sys.stdout.isatty())
    return exit_status(record, args.max_failure_rate)


def _print_end(args: argparse.Namespace, run: str, show_answers: bool) -> None:
    """Write the report, and print a few answers and what to type next if that is asked for and there are answers."""
    has_report = report_after_run(args)
    if show_answers and (answers := list(format_answers(args.output, run))):
        print("\n".join(["", *answers, "", *format_next_steps(args.output, has_report)]))


def _new_pipeline(args: argparse.Namespace, beam_arguments: Sequence[str]) -> beam.Pipeline:
    """Check the options of Beam, and return an empty pipeline."""
    options = beam_options(args, beam_arguments)
    if args.runner != LOCAL_RUNNER:
        return beam.Pipeline(args.runner, options=options)
    return beam.Pipeline(local_runner(options, args.workers, choose_gpus(args), extra_row_s(args)), options=options)


def _run_shards(
    pipeline: beam.Pipeline,
    job: AnnotateToParquet,
    read_refs: Callable[[beam.Pipeline], PCollection[ImageRef]],
    service: JobService,
) -> str | None:
    """Run the pipeline as ``_run_pipeline`` does. If devices failed, plan the run again over the other workers.

    The run keeps its name, and so its shards: those that are published are skipped, and answers that are kept are taken
    up. The record names the failures.
    """
    end = partial(end_interrupted, job.job, job.output, job.about, job.started) if service.works_here else None
    while (reason := _run_pipeline(pipeline, service, end)) == SHARDS_LEFT:
        assert isinstance(pipeline.runner, LocalRunner)
        failures = job.about.setdefault(DEVICE_FAILURES, {})
        failures.update(pipeline.runner.device_failures)
        if (runner := pipeline.runner.without_failed_devices(pipeline.options)) is None:
            return no_device_left(failures)
        pipeline = beam.Pipeline(runner, options=pipeline.options)
        read_refs(pipeline) | "Annotate" >> job
    return reason


def _run_pipeline(
    pipeline: beam.Pipeline, service: JobService, end_interrupted: Callable[[str], str] | None
) -> str | None:
    """Run the pipeline to its end. If it stops early for a known reason, return the line that says so, else None.

    Args:
        end_interrupted: called with the name of a signal that ends the run; returns the message for the user.
    """
    result = None
    try:
        with unwrap_keyboard_interrupt():
            result = pipeline.run()
            service.keep_job_server()
            result.wait_until_finish()
    except Interrupt as interrupt:
        message = service.cancel(result) or interrupt_message(result, pipeline.options)
        interrupt.message = message or interrupt.message
        if end_interrupted:
            interrupt.message = end_interrupted(str(interrupt))
        raise
    except Exception as error:
        service.end_shards()
        lost = [*filter(None, [service.failure_reason(error)]), *getattr(pipeline.runner, "dead_workers", [])]
        reason = stop_reason(error) or failure_reason(error) or worker_loss_reason(error, lost)
        if reason is None:
            raise
        return reason
    return None


def beam_options(args: argparse.Namespace, arguments: Sequence[str]) -> PipelineOptions:
    """Return Beam's options from the arguments that our parser did not understand.

    Raises:
        ValueError: if one of them is no option of Beam's either. Beam alone would only warn and ignore it.
        SystemExit: with status 2 if an option of Beam's has a bad value.
    """
    # This callback gets the parser of all of Beam's options. There is no other way to get it.
    parents: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parents.append)
    parser = OneLineParser("moondream-beam annotate", parents=parents, add_help=False, allow_abbrev=False)
    _, unknown = parser.parse_known_args(list(arguments))
    reject_unknown_args(args, unknown, parser.given.options)
    return PipelineOptions(list(arguments))


def threads_per_worker(args: argparse.Namespace) -> int:
    """Return the number of CPU threads for each worker process: the usable processors divided by ``--workers``.

    The result is at least 1.
    """
    # A scheduler such as Slurm may allow this process to use only some of the processors.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // args.workers)


def _print_start(args: argparse.Namespace, *, here: bool) -> None:
    """Print what answers and where the rows go; for workers elsewhere, print the warning about the runner, if any."""
    if not here:
        line = runner_warning(args.runner)
    elif args.backend == OPENAI:
        line = start_line(args)
    elif args.backend not in ("local", TRANSFORMERS):
        line = f"{args.backend} answers, gets the pictures, and costs money; rows go to {args.output}"
    elif (device := choose_device(args.device).type) != "cpu":
        line = f"{args.model or OFFICIAL} on {device}; rows go to {args.output}"
    elif args.device == "auto" and args.fallback != "none":
        # The worker finds out whether the engine or the API answers, and logs it.
        line = f"rows go to {args.output}"
    else:
        note = "no accelerator; the progress line shows the time left"
        line = f"{args.model or OFFICIAL} on cpu ({note}); rows go to {args.output}"
    gpus = choose_gpus(args) if args.runner == LOCAL_RUNNER else ()
    workers = f"{len(gpus)} GPUs: {len(gpus)} worker processes, one on each; --workers N uses N of them" if gpus else ""
    note = NOTE if args.model == "tiny" and args.backend == "local" else ""
    for text in filter(None, (line, workers, note, comma_note(args.tasks or ()))):
        print(text, file=sys.stderr)
