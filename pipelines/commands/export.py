"""``moondream-beam export``: write the answers of an output in a format that training tools read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...transforms.dataset.changed import PictureCheck, leave_out_changed
from ...transforms.dataset.export.formats import FORMATS, SHARES_NAME, only_task
from ...transforms.dataset.export.targets import resolve_destination
from ...transforms.dataset.export.wide import Selection
from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ..options.parser import reject_unknown_args, startup_errors

# Formats that hold the pictures themselves.
WITH_PICTURES = ("imagefolder", "webdataset")
ASK_AGAIN = "to ask about the present pictures, run annotate again with --retry-changed"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("output", metavar="OUT", help="folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--to",
        required=True,
        choices=tuple(FORMATS),
        help="sidecar: one .txt file for each picture, with one caption on each line; imagefolder: pictures and "
        "metadata.jsonl; webdataset: tar archives with pictures and JSON; coco: boxes in one JSON file; jsonl: one "
        "line for each picture",
    )
    parser.add_argument(
        "destination",
        metavar="DEST",
        help="new folder, on disk or in a bucket; for coco and jsonl a new file; for sidecar also the folder of the "
        "pictures",
    )
    parser.add_argument(
        "--where",
        default="true",
        metavar="SQL",
        help="export only rows that meet this condition, such as \"task = 'caption' AND width >= 512\" (default: all)",
    )
    parser.add_argument(
        "--drop-suspicious", action="store_true", help="leave out answers that the report flags as suspicious"
    )
    parser.add_argument(
        "--no-picture-check",
        dest="picture_check",
        action="store_false",
        help="for sidecar, coco and jsonl: do not read the pictures to leave out answers about pictures that have "
        "changed since",
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="allow http(s) requests to this machine and to private networks",
    )


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command and return its exit status.

    Returns:
        1 if a chosen picture was left out, or a text file could not have the name of its picture; else 0.

    Raises:
        StartupError: if an argument is bad, the output does not exist or cannot be read, the destination exists, or
            no row meets the condition.
    """
    with startup_errors():
        reject_unknown_args(args, others)
        destination = resolve_destination(args.destination)
        with duckdb_errors(args.output):
            dataset = Dataset(args.output)
    with dataset:
        with startup_errors(), duckdb_errors(args.output):
            selection, check = _select(dataset, args)
            left = FORMATS[args.to](selection, destination, Fetcher(args.allow_private_addresses))
        print(f"{_format_selection(args.to, selection)} as {args.to} in {destination}")
        if selection.older:
            print(f"left out {selection.older} rows that have a later answer to the same question", file=sys.stderr)
        _print_check(check)
        for reason, pictures in left.items():
            print(f"{pictures} of the pictures have a problem; each {reason}", file=sys.stderr)
    return 1 if check.rows or any(reason != SHARES_NAME for reason in left) else 0


def _select(dataset: Dataset, args: argparse.Namespace) -> tuple[Selection, PictureCheck]:
    """Return the rows to export, without rows about pictures that have changed since, and what the check found.

    The formats that hold pictures read each picture anyway, and leave out those that have changed.

    Raises:
        ValueError: if the condition is not valid, or no row is left.
    """
    if args.to in WITH_PICTURES and not args.picture_check:
        raise ValueError(f"--no-picture-check is not for --to {args.to}, which reads the pictures: leave it out")
    selection = Selection(dataset, args.where, drop_suspicious=args.drop_suspicious)
    reads = args.picture_check and args.to not in WITH_PICTURES
    check = leave_out_changed(dataset, selection.rows, Fetcher(args.allow_private_addresses) if reads else None)
    if not check.rows:
        return selection, check
    try:
        return Selection(dataset, args.where, drop_suspicious=args.drop_suspicious), check
    except ValueError as error:
        changed = f"all {check.pictures} pictures have changed since they were annotated"
        raise ValueError(f"no row is left to export, because {changed}: {ASK_AGAIN}") from error


def _print_check(check: PictureCheck) -> None:
    """Print how many rows the check of the pictures has left out, and how many pictures it could not read, if any."""
    if check.rows:
        about = f"{check.rows} rows about {check.pictures} pictures that have changed since"
        print(f"left out {about}: {ASK_AGAIN}", file=sys.stderr)
    if check.unread:
        unread = f"{check.unread} of the pictures could not be read"
        print(f"{unread}, so nothing shows whether they have changed; their rows were exported", file=sys.stderr)


def _format_selection(shape: str, selection: Selection) -> str:
    """Return what was exported, such as "4 pictures, 4 of 13 chosen answers (only caption)"."""
    task = only_task(shape, selection)
    if task is None or (exported := selection.answers_to[task]) == selection.answers:
        return f"{selection.pictures} pictures, {selection.answers} answers"
    return f"{selection.pictures} pictures, {exported} of {selection.answers} chosen answers (only {task})"
