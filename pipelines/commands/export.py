"""``moondream-beam export``: write the answers of an output in a format that training tools read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from ...transforms.dataset.changed import PictureCheck, leave_out_changed
from ...transforms.dataset.export.formats import (
    ANOTHER_TEXT,
    FORMATS,
    NO_TEXT,
    Format,
    Note,
    Problems,
    only_task,
    to_sidecar,
)
from ...transforms.dataset.export.targets import resolve_destination
from ...transforms.dataset.export.texts import DEFAULT_TEXTS, TextOptions, checked_extension
from ...transforms.dataset.export.wide import Selection
from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ...transforms.output.files import is_local
from ..options.parser import startup_errors

# Formats that hold the pictures themselves.
WITH_PICTURES = ("imagefolder", "webdataset")
# Formats that are one file, and the extensions that its name may have. The first is appended to other names.
FILE_EXTENSIONS = {"jsonl": (".jsonl", ".ndjson"), "coco": (".json",)}
# What the answers to each kind of task are called.
ANSWERS = {"caption": "captions", "query": "answers", "detect": "boxes", "point": "points"}
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
        destination = _with_extension(resolve_destination(args.destination), args.to)
        with duckdb_errors(args.output):
            dataset = Dataset(args.output)
    with dataset:
        with startup_errors(), duckdb_errors(args.output):
            selection, check = _select(dataset, args)
            notes = list(_notes(selection))
            left = export(selection, destination, Fetcher(args.allow_private_addresses))
        done = f"{_format_selection(args.to, selection, left)} as {args.to} in {destination}"
        print(done + _format_rest(args.to, selection))
        for line in notes:
            print(line, file=sys.stderr)
        _print_check(check)
        if selection.listed_columns and only_task(args.to, selection) is None:
            print(_format_lists(selection.listed_columns), file=sys.stderr)
        for reason, pictures in left.items():
            # A note needs no action.
            found = "note on {} of the pictures:" if isinstance(reason, Note) else "{} of the pictures have a problem;"
            print(f"{found.format(pictures)} each {reason}", file=sys.stderr)
    return 1 if check.rows or not all(isinstance(reason, Note) for reason in left) else 0


def _notes(selection: Selection) -> Iterator[str]:
    """Yield a line about the rows of the selection that are not exported, for each reason."""
    if selection.older:
        yield f"left out {selection.older} rows that have a later answer to the same question"
    if selection.repeated:
        yield (
            f"note: {selection.repeated} rows have the same answer and columns as another row, because rows of the "
            "manifest are equal; each answer is exported once"
        )


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
    check = leave_out_changed(dataset, selection.latest, Fetcher(args.allow_private_addresses) if reads else None)
    if check.rows:
        try:
            selection.count_again()
        except ValueError as error:
            changed = f"all {check.pictures} pictures have changed since they were annotated"
            raise ValueError(f"no row is left to export, because {changed}: {ASK_AGAIN}") from error
    return selection, check


def _print_check(check: PictureCheck) -> None:
    """Print how many rows the check of the pictures has left out, and how many pictures it could not read, if any."""
    if check.rows:
        about = f"{check.rows} rows about {check.pictures} pictures that have changed since"
        print(f"left out {about}: {ASK_AGAIN}", file=sys.stderr)
    if check.unread:
        unread = "each could not be read, so nothing shows whether it has changed; its rows were exported"
        print(f"note on {check.unread} of the pictures: {unread}", file=sys.stderr)


def _with_extension(destination: str, shape: str) -> str:
    """Return the destination of a format that is one file with the extension of this format.

    A folder that exists is returned unchanged. The export refuses it.
    """
    extensions = FILE_EXTENSIONS.get(shape, ("",))
    if destination.lower().endswith(extensions) or (is_local(destination) and os.path.isdir(destination)):
        return destination
    return destination + extensions[0]


def _format_selection(shape: str, selection: Selection, left: Problems) -> str:
    """Return what was exported, such as "4 pictures, 13 answers" or "26 texts written (captions)"."""
    task = only_task(shape, selection)
    if shape == "sidecar" and task is not None:
        texts = selection.pictures - left[NO_TEXT] - left[ANOTHER_TEXT]
        return f"{texts} texts written ({ANSWERS[task]})"
    if task is None:
        return f"{selection.pictures} pictures, {selection.answers} answers"
    return f"{selection.answers_to[task]} detections written ({ANSWERS[task]})"


def _format_rest(shape: str, selection: Selection) -> str:
    """Return which of the chosen answers are not in an export, or "" if all are in it."""
    task = only_task(shape, selection)
    rest = {kind: count for kind, count in selection.answers_to.items() if count and task not in (None, kind)}
    if not rest:
        return ""
    names = [ANSWERS[kind] for kind in ("caption", "detect", "point", "query") if kind in rest]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"; {listed} have no place in it ({sum(rest.values())} of {selection.answers} chosen answers)"
