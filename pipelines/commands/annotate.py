"""``moondream-beam annotate``: ask a model about pictures, and write the answers to Parquet files."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ...models.moondream.devices import choose_device
from ...models.moondream.names import OFFICIAL
from ...transforms.annotation.job import AnnotateToParquet
from ...transforms.annotation.run_end import end_interrupted
from ...transforms.core.errors import stop_reason
from ...transforms.monitoring.progress import ProgressFiles
from ...transforms.output.locks.lock import acquire, run_lock
from ...transforms.output.run_record import read_record
from ...transforms.planning.limit import LimitPictures
from ..building.inputs import Inputs, build_inputs
from ..building.job import build_job
from ..building.models import build_annotator
from ..building.pipeline import is_dry_run, keep_slice, read_inputs
from ..display.progress import show_progress
from ..display.run_summary import exit_status, format_summary
from ..local_runner.gpus import choose_gpus
from ..local_runner.runner import local_runner
from ..local_runner.signals import Interrupt, unwrap_keyboard_interrupt, worker_loss_reason
from ..options.cluster import new_run_name, resource_hints, runner_warning
from ..options.hosted import extra_row_s
from ..options.job import LOCAL_RUNNER
from ..options.parser import OneLineParser, reject_unknown_args, startup_errors
from ..options.tasks import comma_note
from .report import report_after_run

STOPPED_EARLY = 1


def build(
    pipeline: beam.Pipeline, args: argparse.Namespace, run: str, inputs: Inputs | None = None
) -> AnnotateToParquet:
    """Add all steps of the job to a pipeline. Return the transform that does the job.

    Args:
        run: the name of the run.
        inputs: the inputs of ``args``, if they are built already.

    Raises:
        ValueError: if an option has a bad value, an input has no pictures, or the model does not exist.
        OSError: if an input cannot be read.
        RuntimeError: if a client for a bucket is not installed, or the weights cannot be downloaded.
    """
    here = args.runner == LOCAL_RUNNER
    inputs = inputs or build_inputs(args)
    job = build_job(args, inputs, build_annotator(args, threads_per_worker(args) if here else None, here=here), run)
    refs = read_inputs(pipeline, inputs)
    if args.limit is not None:
        refs = refs | "Limit" >> LimitPictures(args.limit)
    keep_slice(refs, args) | "Annotate" >> job.with_resource_hints(**resource_hints(args))
    for note in inputs.columns.notes:
        print(note, file=sys.stderr)
    return job


def run(args: argparse.Namespace, beam_arguments: Sequence[str], inputs: Inputs) -> int:
    """Run the command and return its exit status.

    Args:
        beam_arguments: the arguments that our parser did not understand.
        inputs: what ``check_annotate`` returned for ``args``.

    Returns:
        0 or 1 by ``run_summary.exit_status``; 1 also if the run stopped early; 0 after a dry run.

    Raises:
        StartupError: if an argument is bad, a requirement is missing, or another run uses the output.
    """
    local = args.runner == LOCAL_RUNNER
    with contextlib.ExitStack() as stack:
        with startup_errors():
            name = new_run_name(args)
            pipeline = _new_pipeline(args, beam_arguments)
            job, started = build(pipeline, args, name, inputs), time.time()
            if is_dry_run(args, pipeline.options):
                pipeline.run()
                print("dry run: the job was built for Dataflow; nothing was started, and nothing was written")
                return 0
            if local:
                stack.enter_context(run_lock(args.output, name))
            else:
                # The workers keep the lock alive from here on, because they may outlive this process.
                acquire(args.output, name)
            _print_start(args)
        if local:
            stack.enter_context(show_progress(ProgressFiles(args.output, name)))
        end = partial(end_interrupted, job.job, args.output, job.about, started) if local else None
        if (reason := _run_pipeline(pipeline, end)) is not None:
            print(f"moondream-beam annotate: {reason}", file=sys.stderr)
            return STOPPED_EARLY
    record = read_record(args.output, name)
    print(format_summary(record, args.output, args.max_failure_rate))
    report_after_run(args)
    return exit_status(record, args.max_failure_rate)


def _new_pipeline(args: argparse.Namespace, beam_arguments: Sequence[str]) -> beam.Pipeline:
    """Check the options of Beam, and return an empty pipeline."""
    options = beam_options(args, beam_arguments)
    if args.runner != LOCAL_RUNNER:
        return beam.Pipeline(args.runner, options=options)
    return beam.Pipeline(local_runner(options, args.workers, choose_gpus(args), extra_row_s(args)), options=options)


def _run_pipeline(pipeline: beam.Pipeline, end_interrupted: Callable[[str], str] | None) -> str | None:
    """Run the pipeline to its end. If it stops early for a known reason, return the line that says so, else None.

    Args:
        end_interrupted: called with the name of a signal that ends the run; returns the message for the user.
    """
    try:
        with unwrap_keyboard_interrupt():
            pipeline.run().wait_until_finish()
    except Interrupt as interrupt:
        if end_interrupted:
            interrupt.message = end_interrupted(str(interrupt))
        raise
    except Exception as error:
        dead_workers = getattr(pipeline.runner, "dead_workers", [])
        if (reason := stop_reason(error) or worker_loss_reason(error, dead_workers)) is None:
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
    reject_unknown_args(args, unknown)
    return PipelineOptions(list(arguments))


def threads_per_worker(args: argparse.Namespace) -> int:
    """Return the number of CPU threads for each worker process: the usable processors divided by ``--workers``.

    The result is at least 1.
    """
    # A scheduler such as Slurm may allow this process to use only some of the processors.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // args.workers)


def _print_start(args: argparse.Namespace) -> None:
    """Print what answers and where the rows go; for a runner elsewhere, print the warning about it, if any."""
    if args.runner != LOCAL_RUNNER:
        line = runner_warning(args.runner)
    elif args.backend != "local":
        line = f"{args.backend} answers, gets the pictures, and costs money; rows go to {args.output}"
    elif (device := choose_device(args.device).type) != "cpu":
        line = f"{args.model or OFFICIAL} on {device}; rows go to {args.output}"
    elif args.device == "auto" and args.fallback != "none":
        # The worker finds out whether the engine or the API answers, and logs it.
        line = f"rows go to {args.output}"
    else:
        note = "no accelerator; the progress line shows the time left"
        line = f"{args.model or OFFICIAL} on cpu ({note}); rows go to {args.output}"
    for text in filter(None, (line, comma_note(args.tasks or ()))):
        print(text, file=sys.stderr)
