"""``moondream-beam report``: write an HTML page about an output."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys

from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ...transforms.io.object_stores.file_systems import FileSystems
from ...transforms.io.retry import RetryPolicy
from ...transforms.output.files import exists, is_local, remove_temporary_folder, write_atomic
from ...transforms.output.layout import REPORT_NAME, draft_path
from ..display.report_page.render import render
from ..options.parser import startup_errors

# A report on more rows takes minutes, which would delay the end of the run.
MAX_AUTO_REPORT_ROWS = 2_000_000
# A host that does not answer must not delay the report for long.
THUMBNAIL_RETRY_POLICY = RetryPolicy(max_attempts=2, timeout_s=8)
# The last line of a page, by which a later report recognizes a page that it may replace.
SEAL = "<!-- moondream-beam report, sha256 of the lines above: {digest} -->\n"
_SEAL = re.compile(re.escape(SEAL).replace(re.escape("{digest}"), "([0-9a-f]{64})").encode())


def run(args: argparse.Namespace) -> int:
    """Run the command, print the path of the page, and return 0.

    Raises:
        StartupError: if the output does not exist or cannot be read.
    """
    with startup_errors(), duckdb_errors(args.output):
        path = write_report(Dataset(args.output), _fetcher(args))
    print(path)
    return 0


def write_report(dataset: Dataset, fetch: Fetcher) -> str:
    """Write ``report.html`` into the output folder, close the dataset, and return the path of the page.

    Raises:
        ValueError: if a file of this name is there that is not a report, or that was edited. It stays as it is.
    """
    path = dataset.path(REPORT_NAME)
    with dataset:
        if not _is_replaceable(path):
            raise ValueError(f"{path} was edited, or another program wrote it, so it was kept: rename that file")
        page = render(dataset, fetch).rstrip("\n") + "\n"
    seal = SEAL.format(digest=hashlib.sha256(page.encode()).hexdigest())
    write_atomic(path, (page + seal).encode(), draft_path(dataset.output))
    remove_temporary_folder(dataset.output)
    return path


def _is_replaceable(path: str) -> bool:
    """Return whether there is no file at this path, or a page that is as ``write_report`` wrote it."""
    if is_local(path) and os.path.islink(path):
        return False
    if not exists(path):
        return True
    with FileSystems.open(path) as file:
        *lines, last = file.read().splitlines(keepends=True) or [b""]
    match = _SEAL.fullmatch(last)
    return match is not None and match[1].decode() == hashlib.sha256(b"".join(lines)).hexdigest()


def report_after_run(args: argparse.Namespace) -> bool:
    """Write the page at the end of a run and print its path. With ``--no-report``, do nothing.

    Returns:
        Whether the page was written.

    If the output is in a bucket or has more than MAX_AUTO_REPORT_ROWS rows, print the command for a report instead. An
    error is printed in one line and does not fail the run.
    """
    if not args.report:
        return False
    if not is_local(args.output):
        print(f"report   to write it, run: moondream-beam report {args.output}")
        return False
    try:
        with Dataset(args.output) as dataset:
            if (rows := dataset.count()) > MAX_AUTO_REPORT_ROWS:
                print(f"report   {rows:,} rows take minutes; to write it, run: moondream-beam report {args.output}")
            else:
                print(f"report   {write_report(dataset, _fetcher(args))}")
                return True
    # The rows are committed and the summary is printed. A fault of the report must not fail the run.
    except Exception as error:
        fault = f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(f"report   failed: {fault}; to try again, run: moondream-beam report {args.output}", file=sys.stderr)
    return False


def _fetcher(args: argparse.Namespace) -> Fetcher:
    return Fetcher(args.allow_private_addresses, THUMBNAIL_RETRY_POLICY)
