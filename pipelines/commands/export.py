"""``moondream-beam export``: write the answers of an output in a format that training tools read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from ...transforms.core.summary import counted
from ...transforms.dataset.changed import PictureCheck, leave_out_changed
from ...transforms.dataset.export.formats import FILES, FORMATS, LAYOUTS, RESIZABLE, TEXTS, Format, only_tasks
from ...transforms.dataset.export.layouts.placing import DEFAULT_LAYOUT, LayoutOptions
from ...transforms.dataset.export.layouts.sidecar import CANT_SHARE_NAME, NO_FILE, SAME_TEXT
from ...transforms.dataset.export.layouts.splits import ONE_SPLIT, Splits, parse_splits, split_files
from ...transforms.dataset.export.layouts.template import parse_fields
from ...transforms.dataset.export.pictures.convert import Wanted
from ...transforms.dataset.export.pictures.notes import Note, Problems
from ...transforms.dataset.export.targets import resolve_destination
from ...transforms.dataset.export.texts import TextOptions, checked_extension
from ...transforms.dataset.export.wide import Selection
from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ...transforms.output.files import is_local
from ..options.parser import startup_errors

# What --format names -> Pillow's name.
PICTURE_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# The destination of an option in ``args`` -> the formats that the option is for.
TEXT_OPTIONS = dict.fromkeys(("text_extension", "text_order", "text_lines", "template", "existing"), TEXTS)
LAYOUT_OPTIONS = {
    "along": (*LAYOUTS, *TEXTS),
    "split": (*RESIZABLE, *FILES),
    "resize": (*RESIZABLE, *TEXTS),
    "format": (*RESIZABLE, *TEXTS),
}
NAMES = {"along": "--copy, --link or --no-images"}
# Formats that are one file, and the extensions that its name may have. The first is appended to other names.
FILE_EXTENSIONS = {"jsonl": (".jsonl", ".ndjson"), "coco": (".json",)}
# What the answers to each kind of task are called.
ANSWERS = {"caption": "captions", "detect": "boxes", "point": "points", "query": "answers"}
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
        export = _choose_format(args)
        destination = _with_extension(resolve_destination(args.destination), args.to)
        with duckdb_errors(args.output):
            dataset = Dataset(args.output)
    with dataset:
        with startup_errors(), duckdb_errors(args.output):
            selection, check = _select(dataset, args)
            notes = list(_notes(selection))
            left = export(selection, destination, Fetcher(args.allow_private_addresses))
        written = split_files(destination, _splits(args)).values() if args.to in FILES else [destination]
        # The user chose the fields of a template.
        missing = sum(pictures for reason, pictures in left.items() if not isinstance(reason, Note))
        is_chosen = bool(missing) and args.to in RESIZABLE and _has_pictures(args)
        verb = "chosen" if is_chosen else "written"
        done = f"{_format_selection(args.to, selection, left, verb)} as {args.to} in {', '.join(written)}"
        if is_chosen:
            done += f"; of these, the answers of {counted(missing, 'pictures')} are not in it"
        print(done + ("" if args.template else _format_rest(args.to, selection)) + _format_failures(dataset))
        for line in notes:
            print(line, file=sys.stderr)
        _print_check(check)
        if selection.listed_columns and not only_tasks(args.to, selection):
            print(_format_lists(selection.listed_columns), file=sys.stderr)
        for reason, pictures in left.items():
            # A note needs no action.
            found = "note on {} of the pictures:" if isinstance(reason, Note) else "{} of the pictures have a problem;"
            print(f"{found.format(pictures)} each {reason}", file=sys.stderr)
    return 1 if check.rows or not all(isinstance(reason, Note) for reason in left) else 0


def _notes(selection: Selection) -> Iterator[str]:
    """Yield a line about the rows of the selection that are not exported, for each reason."""
    if selection.older:
        yield f"left out {counted(selection.older, 'rows')}, because the same question has a later answer"
    if selection.repeated:
        yield (
            f"note: {counted(selection.repeated, 'rows')} with the same answer and columns as another row, because "
            "rows of the manifest are equal; each answer is exported once"
        )


def _format_lists(columns: Sequence[str]) -> str:
    return (
        f"note: rows of one picture have several values of {', '.join(columns)}: each line has a list of them, in one "
        "order; --where chooses among the rows"
    )


def _has_pictures(args: argparse.Namespace) -> bool:
    """Return whether the export holds the pictures themselves, or links to them."""
    return args.along == "copy" if args.to in TEXTS else args.to in RESIZABLE and args.along != "no"


def _choose_format(args: argparse.Namespace) -> Format:
    """Return the format that ``--to`` names, with its options.

    Raises:
        ValueError: if an option belongs to another format, its value is bad, or two options exclude each other.
    """
    for name, formats in {**TEXT_OPTIONS, **LAYOUT_OPTIONS}.items():
        if args.to not in formats and getattr(args, name) is not None:
            option = NAMES.get(name, f"--{name.replace('_', '-')}")
            raise ValueError(f"{option} is for --to {', '.join(formats)} only: leave it out")
    if args.to in TEXTS:
        return partial(FORMATS[args.to], texts=_text_options(args))
    if args.to in RESIZABLE:
        return partial(FORMATS[args.to], options=_layout_options(args))
    return partial(FORMATS[args.to], splits=_splits(args))


def _splits(args: argparse.Namespace) -> Splits:
    return parse_splits(args.split) if args.split is not None else ONE_SPLIT


def _text_options(args: argparse.Namespace) -> TextOptions:
    default = TextOptions()
    extension = checked_extension(default.extension if args.text_extension is None else args.text_extension)
    if args.template is not None:
        parse_fields(args.template)
        if args.text_lines:
            raise ValueError("--text-lines is not for --template, which gives one line: leave one of them out")
    if args.along in ("link", "no"):
        raise ValueError(f"{NAMES['along']}: for --to {args.to} give --copy, or none of these")
    _check_changes(args, args.along)
    existing, only_first = args.existing or default.existing, args.text_lines == "first"
    copies = _wanted(args) if args.along else None
    return TextOptions(extension, tuple(args.text_order or ()), existing, args.template or "", only_first, copies)


def _layout_options(args: argparse.Namespace) -> LayoutOptions:
    wanted, along = _wanted(args), args.along or DEFAULT_LAYOUT.along
    if along == "no" and args.to == "yolo":
        raise ValueError(
            "--no-images is not for --to yolo, whose readers find labels by pictures: give --copy or --link"
        )
    _check_changes(args, along)
    if along == "link" and not is_local(args.destination):
        raise ValueError(f"--link: {args.destination} is in a bucket, which has no links: give --copy or --no-images")
    return LayoutOptions(along, wanted, _splits(args))


def _check_changes(args: argparse.Namespace, along: str | None) -> None:
    """Raise ValueError if copies are to be changed and none is made."""
    if along != "copy" and (args.resize or args.format):
        raise ValueError("--resize and --format change copies of the pictures: leave them out, or give --copy")


def _wanted(args: argparse.Namespace) -> Wanted:
    """Return what is asked of each copy of a picture."""
    if args.resize is not None and args.resize < 1:
        raise ValueError(f"--resize {args.resize}: give a number of pixels from 1")
    # `datasets` turns pictures upright. The file of a picture that needs no other change stays as it is for its sake.
    return Wanted(args.resize, PICTURE_FORMATS.get(args.format), upright=args.to in (*LAYOUTS, *TEXTS))


def _select(dataset: Dataset, args: argparse.Namespace) -> tuple[Selection, PictureCheck]:
    """Return the rows to export, without rows about pictures that have changed since, and what the check found.

    The formats that hold pictures read each picture anyway, and leave out those that have changed.

    Raises:
        ValueError: if the condition is not valid, or no row is left.
    """
    if _has_pictures(args) and not args.picture_check:
        raise ValueError(f"--no-picture-check is not for --to {args.to}, which reads the pictures: leave it out")
    selection = Selection(dataset, args.where, drop_suspicious=args.drop_suspicious)
    reads = args.picture_check and not _has_pictures(args)
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
        about = f"{counted(check.rows, 'rows')} about {counted(check.pictures, 'pictures')} changed since then"
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


def _format_selection(shape: str, selection: Selection, left: Problems, verb: str) -> str:
    """Return what was exported, such as "4 pictures, 13 answers" or "26 texts written (captions)"."""
    tasks = only_tasks(shape, selection)
    if not tasks:
        return f"{counted(selection.pictures, 'pictures')}, {counted(selection.answers, 'answers')}"
    if shape in TEXTS:
        without = {reason for reason in left if not isinstance(reason, Note)} - {CANT_SHARE_NAME, NO_FILE}
        texts = selection.pictures - left[SAME_TEXT] - sum(left[reason] for reason in without)
        return f"{counted(texts, 'texts')} written ({_format_kinds(tasks)})"
    chosen = sum(selection.answers_to[task] for task in tasks)
    kinds = _format_kinds([task for task in tasks if selection.answers_to[task]])
    return f"{counted(chosen, 'answers')} {verb} ({kinds})"


def _format_rest(shape: str, selection: Selection) -> str:
    """Return which of the chosen answers are not in an export, or "" if all are in it."""
    tasks = only_tasks(shape, selection)
    rest = {kind: count for kind, count in selection.answers_to.items() if kind not in tasks} if tasks else {}
    if not any(rest.values()):
        return ""
    listed = _format_kinds([kind for kind in ANSWERS if kind in rest])
    return f"; {listed} have no place in it ({sum(rest.values())} of {selection.answers} chosen answers)"


def _format_failures(dataset: Dataset) -> str:
    """Return how many requests of the output have no answer, or "" if all have one."""
    ((failures,),) = dataset.tuples("SELECT count(*) FROM errors")
    if not failures:
        return ""
    return f"; without an answer: {counted(failures, 'requests')} of the output, errors/ has the reasons"


def _format_kinds(tasks: Sequence[str]) -> str:
    """Return what the answers to these kinds of tasks are called, such as "boxes, points and answers"."""
    names = [ANSWERS[task] for task in tasks]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
