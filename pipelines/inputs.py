"""The inputs on the command line: where the pictures are."""

from __future__ import annotations

import argparse

import apache_beam as beam
from apache_beam.pvalue import PCollection

from ..transforms.read import ReadImages, without_pictures
from ..transforms.records import ImageRef


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """The patterns, one or more."""
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="a file, a folder or a glob; quote globs with **")


def check_inputs(args: argparse.Namespace) -> None:
    """Refuse an input that matches nothing.

    Raises:
        ValueError: there is no picture, with the cure.
    """
    if (nothing := without_pictures(args.inputs)) is not None:
        raise ValueError(f"input {nothing}: no picture there; check the path, and quote a glob")


def read_inputs(pipeline: beam.Pipeline, args: argparse.Namespace) -> PCollection[ImageRef]:
    """References to all that the inputs match.

    Raises:
        ValueError: there is no input.
    """
    return pipeline | "Read images" >> ReadImages(*args.inputs)
