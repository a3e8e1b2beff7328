"""``moondream-beam annotate``: pictures in, a balanced Parquet dataset out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.transforms.combiners import Top

from ...models.moondream.checkpoints.hub import OFFICIAL
from ...models.moondream.devices import choose_device
from ...transforms.core.errors import stop_reason
from ...transforms.core.records import KEY_DIGITS
from ...transforms.monitoring.progress import ProgressFiles
from ...transforms.output.files import absolute
from ...transforms.output.lock import acquire, run_lock
from ...transforms.output.run_record import read_record
from ..display.progress import show_progress
from ..display.run_summary import exit_status, format_summary
from ..local_runner.gpus import gpus_of
from ..local_runner.runner import local_runner
from ..local_runner.signals import unwrapped_interrupts, worker_death
from ..options.cluster import add_cluster_options, check_cluster, hints_of, is_dry, run_of, say_of_runner, sliced
from ..options.hosted import patience_of
from ..options.inputs import add_input_options, inputs_of
from ..options.job import LOCAL_RUNNER, add_job_options, check_job, job_of
from ..options.models import add_model_options, annotator_of
from ..options.parser import OneLineParser, reject_unknown_args, startup_errors
from ..options.tasks import add_sampling_options, add_task_options
from .report import add_report_option, try_report

STOPPED = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command; all others are Beam's."""
    add_input_options(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where rows go; run again to go on")
    add_task_options(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    add_job_options(parser)
    add_cluster_options(parser)
    add_report_option(parser)


def build(pipeline: beam.Pipeline, args: argparse.Namespace, run: str) -> None:
    """Apply the whole job to a pipeline.

    Raises:
        ValueError: an option makes no sense.
    """
    here = args.runner == LOCAL_RUNNER
    inputs = inputs_of(args)
    job = job_of(args, inputs, annotator_of(args, threads_of(args) if here else None, here=here), run)
    refs = inputs.read(pipeline)
    if args.limit is not None:
        # From the middle of their names on: the first digits draw the slice, and the last ones the shard.
        refs = (
            refs
            | "Limit" >> Top.Smallest(args.limit, key=lambda ref: ref.key[KEY_DIGITS // 2 :] + ref.key)
            | "Each" >> beam.FlatMap(lambda chosen: chosen)
        )
    sliced(refs, args) | "Annotate" >> job.with_resource_hints(**hints_of(args))


def run(args: argparse.Namespace, beam_arguments: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: bad arguments, or a device that is not there.
    """
    with contextlib.ExitStack() as stack:
        with startup_errors():
            check_job(args)
            check_cluster(args)
            name = run_of(args)
            options = beam_options(args, beam_arguments)
            args.output = absolute(args.output)
            local = args.runner == LOCAL_RUNNER
            runner = local_runner(options, args.workers, gpus_of(args), patience_of(args)) if local else args.runner
            pipeline = beam.Pipeline(runner, options=options)
            build(pipeline, args, name)
            if is_dry(args, options):
                pipeline.run()
                print("dry run: the job is as Dataflow would get it; nothing was started, nothing was written")
                return 0
            if local:
                stack.enter_context(run_lock(args.output, name))
                _say_where(args)
            else:
                _say_runner(args)
                # Its workers hold it from here on: they go on when this process is gone.
                acquire(args.output, name)
        if local:
            stack.enter_context(show_progress(ProgressFiles(args.output, name)))
        if (reason := _run(pipeline)) is not None:
            print(f"moondream-beam annotate: {reason}", file=sys.stderr)
            return STOPPED
    record = read_record(args.output, name)
    print(format_summary(record, args.output, args.max_failure_rate))
    try_report(args)
    return exit_status(record, args.max_failure_rate)


def _run(pipeline: beam.Pipeline) -> str | None:
    """Run it to its end; why it stopped before, if that can be told in a line."""
    try:
        with unwrapped_interrupts():
            pipeline.run().wait_until_finish()
    except Exception as error:
        lost = getattr(pipeline.runner, "lost", [])
        if (reason := stop_reason(error) or worker_death(error, lost)) is None:
            raise
        return reason
    return None


class _BeamParser(OneLineParser, _BeamArgumentParser):
    """Beam's parser, as brief as ours about what is wrong."""


def beam_options(args: argparse.Namespace, arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options from what our parser left over.

    Raises:
        ValueError: one of them is not Beam's either. Beam itself would warn and go on without it.
    """
    parser = _BeamParser("moondream-beam annotate", add_help=False, allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(arguments))
    reject_unknown_args(args, unknown)
    return PipelineOptions(list(arguments))


def threads_of(args: argparse.Namespace) -> int:
    """CPU threads of each process: its part of the processors that are there for it."""
    # Schedulers give a process some of a machine's processors, and see to it that it has no more.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // args.workers)


def _say_runner(args: argparse.Namespace) -> None:
    if (said := say_of_runner(args.runner)) is not None:
        print(said, file=sys.stderr)


def _say_where(args: argparse.Namespace) -> None:
    if args.backend != "local":
        print(f"{args.backend} answers and is paid for, pictures go there; rows go to {args.output}", file=sys.stderr)
        return
    device = choose_device(args.device).type
    if device == "cpu" and args.device == "auto" and args.fallback != "none":
        # The worker finds the same and says it.
        print(f"rows go to {args.output}", file=sys.stderr)
        return
    note = ": no accelerator is used, the time left shows as it goes" if device == "cpu" else ""
    print(f"{args.model or OFFICIAL} on {device}{note}; rows go to {args.output}", file=sys.stderr)
