"""``moondream-beam annotate``: pictures in, a balanced Parquet dataset out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
from apache_beam.transforms.combiners import Top

from ..models.moondream.devices import choose_device
from ..models.tasks import Query
from ..transforms.card import read_record
from ..transforms.job import SHARD_SIZE, AnnotateToParquet, new_run
from ..transforms.progress import ProgressNotes
from ..transforms.write import anchor
from .inputs import add_input_options, check_inputs, read_inputs
from .interrupt import unwrapped_interrupts
from .ledger import balance_sheet, exit_status
from .models import add_model_options, annotator_of
from .progress import show_progress
from .refusal import unwrapped_refusals
from .runner import local_runner
from .starting import starting
from .tasks import add_sampling_options, add_task_options, sampling_of

LOCAL_RUNNER = "local"
# So that a worker that was dealt hard shards does not keep the others waiting at the end.
SHARDS_PER_WORKER = 4
# The tasks have a place of their own in the record, and a webhook's address may hold a secret.
UNRECORDED = ("command", "run", "tasks", "webhook")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command; all others are Beam's."""
    add_input_options(parser)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where rows go; run again to go on")
    add_task_options(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    job = parser.add_argument_group("job", "every Beam option may follow as well")
    job.add_argument("--runner", default=LOCAL_RUNNER, help="this machine, or one of Beam's runners (%(default)s)")
    job.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (%(default)s)")
    job.add_argument("--shard-size", type=int, default=SHARD_SIZE, metavar="N", help="pictures a file (%(default)s)")
    job.add_argument("--limit", type=int, metavar="N", help="annotate N pictures only, always the same ones")
    job.add_argument(
        "--max-failure-rate",
        type=float,
        default=0.0,
        metavar="R",
        help="share of rows in errors/ above which the exit status is 1 (%(default)s)",
    )


def build(pipeline: beam.Pipeline, args: argparse.Namespace, run: str) -> None:
    """Apply the whole job to a pipeline.

    Raises:
        ValueError: an option makes no sense.
    """
    annotator = annotator_of(args, _threads(args) if args.runner == LOCAL_RUNNER else None)
    job = AnnotateToParquet(
        args.tasks or [Query()],
        annotator,
        args.output,
        sampling=sampling_of(args),
        shard_size=args.shard_size,
        min_shards=1 if args.workers == 1 else SHARDS_PER_WORKER * args.workers,
        run=run,
        about={"command": "annotate", "options": _options(args)},
    )
    refs = read_inputs(pipeline, args)
    if args.limit is not None:
        refs = (
            refs
            | "Limit" >> Top.Smallest(args.limit, key=lambda ref: ref.key)
            | "Each" >> beam.FlatMap(lambda chosen: chosen)
        )
    refs | "Annotate" >> job


def run(args: argparse.Namespace, beam_arguments: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: bad arguments, or a device that is not there.
    """
    name = new_run()
    with starting():
        _check(args)
        options = beam_options(beam_arguments)
        args.output = anchor(args.output)
        local = args.runner == LOCAL_RUNNER
        pipeline = beam.Pipeline(local_runner(options, args.workers) if local else args.runner, options=options)
        build(pipeline, args, name)
        if local:
            _say_where(args)
    progress = show_progress(ProgressNotes(args.output, name)) if local else contextlib.nullcontext()
    with unwrapped_refusals(), unwrapped_interrupts(), progress:
        pipeline.run().wait_until_finish()
    record = read_record(args.output, name)
    print(balance_sheet(record, args.output))
    return exit_status(record, args.max_failure_rate)


def beam_options(arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options from what our parser left over.

    Raises:
        ValueError: one of them is not Beam's either. Beam itself would warn and go on without it.
    """
    parser = _BeamArgumentParser(add_help=False, allow_abbrev=False)
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]}: see moondream-beam annotate --help")
    return PipelineOptions(list(arguments))


def _check(args: argparse.Namespace) -> None:
    check_inputs(args)
    for option in ("workers", "limit"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            raise ValueError(f"--{option} {getattr(args, option)}: give 1 or more")
    if args.workers > 1 and args.runner != LOCAL_RUNNER:
        raise ValueError("--workers is for this machine; other runners have options of their own")
    if not 0 <= args.max_failure_rate <= 1:
        raise ValueError(f"--max-failure-rate {args.max_failure_rate}: give a share from 0 to 1")


def _threads(args: argparse.Namespace) -> int:
    return max(1, (os.cpu_count() or 1) // args.workers)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    # Ours only: Beam's may hold credentials.
    return {name: value for name, value in vars(args).items() if name not in UNRECORDED}


def _say_where(args: argparse.Namespace) -> None:
    if args.backend != "local":
        print(f"{args.backend} answers and is paid for, pictures go there; rows go to {args.output}", file=sys.stderr)
        return
    device = choose_device(args.device).type
    note = ": no accelerator is used, the time left shows as it goes" if device == "cpu" else ""
    print(f"{args.model} on {device}{note}; rows go to {args.output}", file=sys.stderr)
