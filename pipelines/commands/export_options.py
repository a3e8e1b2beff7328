"""The options of ``moondream-beam export``, and the format that they choose."""

from __future__ import annotations

import argparse
from functools import partial
from typing import get_args

from ...transforms.dataset.export.formats import FORMATS, LAYOUTS, RESIZABLE, TEXTS, Format
from ...transforms.dataset.export.layouts.placing import DEFAULT_LAYOUT, LayoutOptions
from ...transforms.dataset.export.layouts.splits import ONE_SPLIT, parse_splits
from ...transforms.dataset.export.layouts.template import parse_fields
from ...transforms.dataset.export.pictures.convert import Wanted
from ...transforms.dataset.export.targets import Existing
from ...transforms.dataset.export.texts import TextOptions, checked_extension
from ...transforms.output.files import is_local

# What --format names -> Pillow's name.
PICTURE_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# The destination of an option in ``args`` -> the formats that the option is for.
TEXT_OPTIONS = dict.fromkeys(("text_extension", "text_order", "text_lines", "template", "existing"), TEXTS)
LAYOUT_OPTIONS = {"along": LAYOUTS, "split": LAYOUTS, "resize": RESIZABLE, "format": RESIZABLE}
NAMES = {"along": "--copy, --link or --no-images"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("output", metavar="OUT", help="folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--to",
        required=True,
        choices=tuple(FORMATS),
        help="sidecar: one .txt file for each picture, with one caption on each line; imagefolder: pictures and "
        "metadata.jsonl; webdataset: tar archives with pictures and JSON; coco: boxes in one JSON file; jsonl: one "
        "line for each picture; llava: conversations in LLaVA's JSON; messages: conversations in JSONL for ms-swift, "
        "LLaMA-Factory and TRL; yolo: pictures, label files and data.yaml; labelstudio: tasks with predictions; "
        "fiftyone: pictures, and boxes in labels.json; kohya: as sidecar, and meta_cap.json",
    )
    parser.add_argument(
        "destination",
        metavar="DEST",
        help="new folder, on disk or in a bucket; for coco and jsonl a new file, whose name gets .json or "
        ".jsonl at its end; for sidecar and kohya also the folder of the pictures",
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
    _add_layout_options(parser)
    _add_text_options(parser)
    parser.add_argument(
        "--no-picture-check",
        dest="picture_check",
        action="store_false",
        help="for formats without pictures: do not read the pictures to leave out answers about pictures that have "
        "changed since",
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="allow http(s) requests to this machine and to private networks",
    )


def _add_layout_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about the pictures of an export."""
    formats = ", ".join(LAYOUTS)
    along = parser.add_mutually_exclusive_group()
    for option, value, what in (
        ("--copy", "copy", "write copies of the pictures, upright (default)"),
        ("--link", "link", "write symbolic links to the pictures, which must be files on this disk"),
        ("--no-images", "no", "write no pictures, and name each by its path below the input"),
    ):
        along.add_argument(option, dest="along", action="store_const", const=value, help=f"for {formats}: {what}")
    parser.add_argument(
        "--split",
        metavar="NAME=SHARE,...",
        help=f"for {formats}: divide the pictures into splits, such as train=0.95,val=0.05, by a hash of their bytes; "
        "a picture is in the same split in every run (default: all in train)",
    )
    parser.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="make pictures smaller whose longer side has more pixels (default: pictures keep their size)",
    )
    parser.add_argument(
        "--format",
        choices=tuple(PICTURE_FORMATS),
        help="write all pictures in this file format (default: their own, if readers know it)",
    )


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the format ``sidecar``."""
    parser.add_argument(
        "--text-extension",
        metavar="EXT",
        help="for sidecar and kohya: the extension of the text files, such as .caption (default: .txt)",
    )
    parser.add_argument(
        "--text-order",
        action="append",
        metavar="PROMPT",
        help="for sidecar and kohya: write the text for this prompt, such as short, before the others; may be repeated "
        "(default: texts are sorted by prompt)",
    )
    parser.add_argument(
        "--text-lines",
        choices=("all", "first"),
        help="for sidecar and kohya: write all texts of a picture, one on each line, or the first only (default: all)",
    )
    parser.add_argument(
        "--template",
        metavar="TEXT",
        help="for sidecar and kohya: write one line such as '{caption}, {tags}', in which a field is caption, the "
        "column of a caption or query such as caption_short, or a column of the manifest",
    )
    parser.add_argument(
        "--existing",
        choices=get_args(Existing),
        help="for sidecar and kohya: what to do with a text file that exists with other content: keep it, add the "
        "new lines at its end, or replace it (default: keep)",
    )


def has_pictures(args: argparse.Namespace) -> bool:
    """Return whether the export holds the pictures themselves, or links to them."""
    return args.to in RESIZABLE and args.along != "no"


def choose_format(args: argparse.Namespace) -> Format:
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
    return FORMATS[args.to]


def _text_options(args: argparse.Namespace) -> TextOptions:
    default = TextOptions()
    extension = checked_extension(default.extension if args.text_extension is None else args.text_extension)
    if args.template is not None:
        parse_fields(args.template)
        if args.text_lines:
            raise ValueError("--text-lines is not for --template, which gives one line: leave one of them out")
    existing, only_first = args.existing or default.existing, args.text_lines == "first"
    return TextOptions(extension, tuple(args.text_order or ()), existing, args.template or "", only_first)


def _layout_options(args: argparse.Namespace) -> LayoutOptions:
    if args.resize is not None and args.resize < 1:
        raise ValueError(f"--resize {args.resize}: give a number of pixels from 1")
    along = args.along or DEFAULT_LAYOUT.along
    if along == "no" and args.to == "yolo":
        raise ValueError(
            "--no-images is not for --to yolo, whose readers find labels by pictures: give --copy or --link"
        )
    if along != "copy" and (args.resize or args.format):
        raise ValueError("--resize and --format change copies of the pictures: leave them out, or give --copy")
    if along == "link" and not is_local(args.destination):
        raise ValueError(f"--link: {args.destination} is in a bucket, which has no links: give --copy or --no-images")
    # `datasets` turns pictures upright. The file of a picture that needs no other change stays as it is for its sake.
    wanted = Wanted(args.resize, PICTURE_FORMATS.get(args.format), upright=args.to in LAYOUTS)
    return LayoutOptions(along, wanted, parse_splits(args.split) if args.split is not None else ONE_SPLIT)
