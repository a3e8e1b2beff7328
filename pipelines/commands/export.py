"""``moondream-beam export``: write the answers of an output in a format that training tools read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ...transforms.dataset.export.formats import FORMATS, SHARES_NAME, only_task
from ...transforms.dataset.export.targets import resolve_destination
from ...transforms.dataset.export.wide import Selection
from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ..options.parser import reject_unknown_args, startup_errors


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
            selection = Selection(dataset, args.where, drop_suspicious=args.drop_suspicious)
            left = FORMATS[args.to](selection, destination, Fetcher(args.allow_private_addresses))
        print(f"{_format_selection(args.to, selection)} as {args.to} in {destination}")
        if selection.older:
            print(f"left out {selection.older} rows that have a later answer to the same question", file=sys.stderr)
        if selection.listed_columns and only_task(args.to, selection) is None:
            names = ", ".join(selection.listed_columns)
            print(
                f"several rows of a manifest name one picture: its values of {names} are lists, in one order; "
                "--where chooses among the rows",
                file=sys.stderr,
            )
        for reason, pictures in left.items():
            print(f"{pictures} of the pictures have a problem; each {reason}", file=sys.stderr)
    return 1 if any(reason != SHARES_NAME for reason in left) else 0


def _format_selection(shape: str, selection: Selection) -> str:
    """Return what was exported, such as "4 pictures, 4 of 13 chosen answers (only caption)"."""
    task = only_task(shape, selection)
    if task is None or (exported := selection.answers_to[task]) == selection.answers:
        return f"{selection.pictures} pictures, {selection.answers} answers"
    return f"{selection.pictures} pictures, {exported} of {selection.answers} chosen answers (only {task})"
