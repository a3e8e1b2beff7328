"""The command on many machines: slices for schedulers that start it n times, and what its workers are to have."""

from __future__ import annotations

import argparse
import re
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, TestOptions
from apache_beam.pvalue import PCollection

from ...transforms.core.records import ImageRef
from ...transforms.output.layout import Slice, new_run_name
from ...transforms.planning.locality import in_slice
from .job import LOCAL_RUNNER


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """``--slice``, ``--gpu`` and ``--worker-memory``."""
    group = parser.add_argument_group("clusters", "one job on many machines")
    group.add_argument(
        "--slice",
        metavar="I/N",
        help="annotate one of N slices of the input, from 0/N on; all go into one output, at once if you like",
    )
    group.add_argument("--gpu", metavar="TYPE", help="an accelerator for each worker with a model, such as nvidia-l4")
    group.add_argument("--worker-memory", metavar="SIZE", help="memory of each worker with a model, such as 16GB")


def check_cluster(args: argparse.Namespace) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: it does not.
    """
    for option in ("gpu", "worker_memory"):
        if getattr(args, option) and args.runner == LOCAL_RUNNER:
            raise ValueError(f"--{option.replace('_', '-')} is for workers elsewhere: name their --runner")
    hints_of(args)
    if "dask" in args.runner.lower():
        raise ValueError(
            f"--runner {args.runner}: Beam's runner for Dask drops what a step gives at the end of a bundle, and says"
            " nothing; use --slice, with a command for each of its workers"
        )
    if slice_of(args) and args.retry_errors:
        # Failures of one slice share files with those of another, if an earlier run had no slices or others.
        raise ValueError(
            "--retry-errors rewrites what other slices wrote: give it without --slice, while none is at work"
        )


def say_of_runner(name: str) -> str | None:
    """What somebody should know of a runner before it starts."""
    if name.lower() not in ("direct", "directrunner"):
        return None
    return f"{name} first tries to download a program of Beam's, without a time limit; --runner {LOCAL_RUNNER} does not"


def is_dry(args: argparse.Namespace, options: PipelineOptions) -> bool:
    """Whether the job is to be built as for Dataflow, and not started.

    Raises:
        ValueError: it would be started, as other runners pass that option over.
    """
    if not options.view_as(TestOptions).dry_run:
        return False
    if "dataflow" not in args.runner.lower():
        raise ValueError(f"--dry_run is for --runner DataflowRunner: {args.runner} would do all of the work")
    return True


def hints_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the workers with a model are to have, as Beam's resource hints. One bundle a worker keeps a GPU full: the
    engine batches within it.

    Raises:
        ValueError: a type or a size can't be any.
    """
    hints: dict[str, Any] = {}
    if args.gpu:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", args.gpu):
            raise ValueError(f"--gpu {args.gpu}: give a type such as nvidia-l4 or nvidia-tesla-t4")
        accelerator = f"type:{args.gpu};count:1;install-nvidia-driver"
        hints.update(accelerator=accelerator, max_active_bundles_per_worker="1")
    if args.worker_memory:
        if not re.fullmatch(r"[1-9]\d*[KMGT]i?B", args.worker_memory, re.ASCII):
            raise ValueError(f"--worker-memory {args.worker_memory}: give a size such as 16GB or 15GiB")
        hints["min_ram"] = args.worker_memory
    return hints


def slice_of(args: argparse.Namespace) -> Slice | None:
    """The slice that is asked for.

    Raises:
        ValueError: it is none.
    """
    return None if args.slice is None else Slice.parse(args.slice)


def run_of(args: argparse.Namespace) -> str:
    """A name for a run of this command.

    Raises:
        ValueError: the slice is none.
    """
    part = slice_of(args)
    return part.run_name(new_run_name()) if part else new_run_name()


def sliced(refs: PCollection[ImageRef], args: argparse.Namespace) -> PCollection[ImageRef]:
    """The references of the slice that is asked for; all of them where none is."""
    part = slice_of(args)
    return refs | "Slice" >> beam.Filter(partial(in_slice, part)) if part else refs
