"""``moondream-beam export``: write the answers of an output in a format that training tools read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from ...transforms.dataset.changed import PictureCheck, leave_out_changed
from ...transforms.dataset.export.formats import FORMATS, Format, Note, only_task, to_sidecar
from ...transforms.dataset.export.targets import resolve_destination
from ...transforms.dataset.export.texts import DEFAULT_TEXTS, TextOptions, checked_extension
from ...transforms.dataset.export.wide import Selection
from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ..options.parser import startup_errors

# Formats that hold the pictures themselves.
WITH_PICTURES = ("imagefolder", "webdataset")
ASK_AGAIN = "to ask about the present pictures, run annotate again with --retry-changed"


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Returns:
        1 if a chosen picture was left out, or a text file could not have the name of its picture; else 0.

    Raises:
        StartupError: if an argument is bad, the output does not exist or cannot be read, the destination exists, or
            no row meets the condition.
    """
    with startup_errors():
        export = _format(args)
        destination = resolve_destination(args.destination)
        with duckdb_errors(args.output):
            dataset = Dataset(args.output)
    with dataset:
        with startup_errors(), duckdb_errors(args.output):
            selection, check = _select(dataset, args)
            left = export(selection, destination, Fetcher(args.allow_private_addresses))
        print(f"{_format_selection(args.to, selection)} as {args.to} in {destination}")
        if selection.older:
            print(f"left out {selection.older} rows that have a later answer to the same question", file=sys.stderr)
        _print_check(check)
        if selection.listed_columns and only_task(args.to, selection) is None:
            print(_format_lists(selection.listed_columns), file=sys.stderr)
        for reason, pictures in left.items():
            # A note needs no action.
            found = "note on {} of the pictures:" if isinstance(reason, Note) else "{} of the pictures have a problem;"
            print(f"{found.format(pictures)} each {reason}", file=sys.stderr)
    return 1 if check.rows or not all(isinstance(reason, Note) for reason in left) else 0


def _format_lists(columns: Sequence[str]) -> str:
    return (
        f"note: rows of one picture have several values of {', '.join(columns)}: each line has a list of them, in one "
        "order; --where chooses among the rows"
    )


def _format(args: argparse.Namespace) -> Format:
    """Return the format that ``--to`` names, with its options.

    Raises:
        ValueError: if an option belongs to another format, or its value is bad.
    """
    options = {"--text-extension": args.text_extension, "--text-order": args.text_order, "--existing": args.existing}
    if args.to != "sidecar":
        for option, value in options.items():
            if value:
                raise ValueError(f"{option} is for --to sidecar only: leave it out")
        return FORMATS[args.to]
    extension = checked_extension(DEFAULT_TEXTS.extension if args.text_extension is None else args.text_extension)
    return partial(
        to_sidecar, texts=TextOptions(extension, tuple(args.text_order), args.existing or DEFAULT_TEXTS.existing)
    )


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
        unread = "each could not be read, so nothing shows whether it has changed; its rows were exported"
        print(f"note on {check.unread} of the pictures: {unread}", file=sys.stderr)


def _format_selection(shape: str, selection: Selection) -> str:
    """Return what was exported, such as "4 pictures, 4 of 13 chosen answers (only caption)"."""
    task = only_task(shape, selection)
    if task is None or (exported := selection.answers_to[task]) == selection.answers:
        return f"{selection.pictures} pictures, {selection.answers} answers"
    return f"{selection.pictures} pictures, {exported} of {selection.answers} chosen answers (only {task})"
