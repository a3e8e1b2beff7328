"""The command on many machines: slices of the input for schedulers that start it n times."""

from __future__ import annotations

import argparse

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..transforms.job import new_run
from ..transforms.records import ImageRef
from ..transforms.slices import Slice


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """``--slice``."""
    group = parser.add_argument_group("clusters", "one job on many machines")
    group.add_argument(
        "--slice",
        metavar="I/N",
        help="annotate one of N slices of the input, from 0/N on; all go into one output, at once if you like",
    )


def check_cluster(args: argparse.Namespace) -> None:
    """Refuse what makes no sense.

    Raises:
        ValueError: it does not.
    """
    if slice_of(args) and args.retry_errors:
        # Failures of one slice share files with those of another, if an earlier run had no slices or others.
        raise ValueError(
            "--retry-errors rewrites what other slices wrote: give it without --slice, while none is at work"
        )


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
    return part.run(new_run()) if part else new_run()


def sliced(refs: PCollection[ImageRef], args: argparse.Namespace) -> PCollection[ImageRef]:
    """The references of the slice that is asked for; all of them where none is."""
    part = slice_of(args)
    return refs | "Slice" >> beam.Filter(part.has) if part else refs
