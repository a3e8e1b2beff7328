"""``moondream-beam export``: an output in the shapes that training tools read."""

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
    """The options of this command."""
    parser.add_argument("output", metavar="OUT", help="the folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--to",
        required=True,
        choices=tuple(FORMATS),
        help="sidecar: a .txt for each picture, a caption a line; imagefolder: pictures and metadata.jsonl; "
        "webdataset: tars of pictures and JSON; coco: boxes; jsonl: a line a picture",
    )
    parser.add_argument(
        "destination",
        metavar="DEST",
        help="a new folder, or one in a bucket; for coco and jsonl a file; for sidecar also the root of the pictures",
    )
    parser.add_argument(
        "--where", default="true", metavar="SQL", help="rows to take, such as \"task = 'caption' AND width >= 512\""
    )
    parser.add_argument("--drop-suspicious", action="store_true", help="leave out what the report calls suspicious")
    parser.add_argument(
        "--allow-private-addresses", action="store_true", help="let http(s) reach this machine and its private networks"
    )


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status: 1 where a picture is left out that should be there, or a text has not its name.

    Raises:
        CannotStartError: unknown arguments, no output there, one that can't be read, a destination that is taken,
            or no row left.
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
        print(f"{_chosen(args.to, selection)} as {args.to} in {destination}")
        if selection.older:
            print(f"{selection.older} rows have a later answer to the same question, and are left out", file=sys.stderr)
        for reason, pictures in left.items():
            print(f"{pictures} of the pictures: {reason}", file=sys.stderr)
    return 1 if any(reason != SHARES_NAME for reason in left) else 0


def _chosen(shape: str, selection: Selection) -> str:
    chosen = f"{selection.pictures} pictures, {selection.answers} answers chosen,"
    task = only_task(shape, selection)
    if task is None or (taken := selection.answers_to[task]) == selection.answers:
        return chosen
    return f"{chosen} {taken} of them ({task})"
