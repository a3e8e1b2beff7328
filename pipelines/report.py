"""``moondream-beam report``: an output as one page to look at."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from ..transforms.dataset import Dataset
from .page.render import render
from .starting import no_others, starting

PAGE = "report.html"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("output", metavar="OUT", help="the folder that annotate wrote")


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: unknown arguments, or no output there.
    """
    with starting():
        no_others(args, others)
        dataset = Dataset(args.output)
    print(write_report(dataset))
    return 0


def write_report(dataset: Dataset) -> str:
    """Write the page beside the rows, and close the dataset; where the page lies."""
    with dataset:
        page = render(dataset)
    path = FileSystems.join(dataset.output, PAGE)
    with FileSystems.create(path, mime_type="text/html") as file:
        file.write(page.encode())
    return path


def try_report(output: str) -> None:
    """Write the page of a run that has ended, and say where; a page that can't be written does not fail the run."""
    try:
        print(f"report   {write_report(Dataset(output))}")
    except Exception as error:
        print(f"no report: {' '.join(str(error).split())}", file=sys.stderr)
