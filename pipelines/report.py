"""``moondream-beam report``: an output as one page to look at."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import duckdb

from ..transforms.dataset import Dataset
from ..transforms.fetch import Fetcher
from ..transforms.output import is_local, write_whole
from .page.render import render
from .starting import no_others, starting

PAGE = "report.html"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("output", metavar="OUT", help="the folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let http(s) fetch thumbnails from this machine and its private networks",
    )


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: unknown arguments, no output there, or one that can't be read.
    """
    with starting():
        no_others(args, others)
        dataset = Dataset(args.output)
        try:
            path = write_report(dataset, Fetcher(args.allow_private_addresses))
        except duckdb.Error as error:
            raise ValueError(f"{args.output} can't be read: {_in_a_line(error)}") from error
    print(path)
    return 0


def write_report(dataset: Dataset, fetch: Fetcher) -> str:
    """Write the page beside the rows, and close the dataset; where the page lies."""
    with dataset:
        page = render(dataset, fetch)
    path = dataset.path(PAGE)
    write_whole(dataset.output, path, page.encode())
    return path


def try_report(output: str, fetch: Fetcher) -> None:
    """Write the page of a run that has ended, and say where; one that can't be written does not fail the run.

    Of an output in a bucket, which may be far away and large, it says how to have one.
    """
    if not is_local(output):
        print(f"report   moondream-beam report {output}")
        return
    try:
        print(f"report   {write_report(Dataset(output), fetch)}")
    # Rows are published and the ledger is told: whatever is wrong with a page, the run is not.
    except Exception as error:
        print(f"no report: {_in_a_line(error)}", file=sys.stderr)


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
