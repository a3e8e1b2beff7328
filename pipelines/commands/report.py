"""``moondream-beam report``: an output as one page to look at."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ...transforms.io.retry import RetryPolicy
from ...transforms.output.files import is_local, remove_temporary_folder, write_atomic
from ...transforms.output.layout import REPORT_NAME, draft_path
from ..display.report_page.render import render
from ..options.parser import reject_unknown_args, startup_errors

# Of more rows a page takes minutes, and a run should end when its rows are there.
ROWS_REPORTED_UNASKED = 2_000_000
# A page is not worth the wait for a host that is gone.
THUMBNAIL_PATIENCE = RetryPolicy(max_attempts=2, timeout_s=8)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("output", metavar="OUT", help="the folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let http(s) fetch thumbnails from this machine and its private networks",
    )


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """``--no-report``, for commands that end with a report."""
    parser.add_argument(
        "--no-report",
        dest="report",
        action="store_false",
        help=f"write no {REPORT_NAME} beside the rows when all is done",
    )


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: unknown arguments, no output there, or one that can't be read.
    """
    with startup_errors():
        reject_unknown_args(args, others)
        with duckdb_errors(args.output):
            path = write_report(Dataset(args.output), _fetcher(args))
    print(path)
    return 0


def write_report(dataset: Dataset, fetch: Fetcher) -> str:
    """Write the page beside the rows, and close the dataset; where the page lies."""
    with dataset:
        page = render(dataset, fetch)
    path = dataset.path(REPORT_NAME)
    write_atomic(path, page.encode(), draft_path(dataset.output))
    remove_temporary_folder(dataset.output)
    return path


def try_report(args: argparse.Namespace) -> None:
    """Unless ``--no-report``, write the page of a run that has ended, and say where.

    One that can't be written does not fail the run. Of an output in a bucket, which may be far away, or with more rows
    than ``ROWS_REPORTED_UNASKED`` it says how to have one.
    """
    if not args.report:
        return
    if not is_local(args.output):
        print(f"report   moondream-beam report {args.output}")
        return
    try:
        with Dataset(args.output) as dataset:
            if (rows := dataset.count()) > ROWS_REPORTED_UNASKED:
                print(f"report   of {rows:,} rows it takes minutes: moondream-beam report {args.output}")
            else:
                print(f"report   {write_report(dataset, _fetcher(args))}")
    # Rows are published and the ledger is told: whatever is wrong with a page, the run is not.
    except Exception as error:
        print(f"no report: {_in_a_line(error)}", file=sys.stderr)


def _fetcher(args: argparse.Namespace) -> Fetcher:
    return Fetcher(args.allow_private_addresses, THUMBNAIL_PATIENCE)


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
