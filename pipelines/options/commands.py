"""The options of each command. Nothing here imports what the command needs to run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from ...transforms.output.layout import REPORT_NAME
from .cluster import add_cluster_options
from .inputs import add_input_options
from .job import add_job_options
from .models import add_model_options
from .tasks import add_sampling_options, add_task_options

SAMPLE_SIZE = 200
HERE, CLOUD, FAL = "here", "cloud", "fal"
WATCH_INTERVAL_S, MAX_WATCH_INTERVAL_S = 5.0, 86_400.0
# The names of ``export.formats.FORMATS`` and of ``export.targets.Existing``.
EXPORT_FORMATS = (
    "sidecar", "imagefolder", "webdataset", "coco", "jsonl", "llava", "messages", "yolo", "labelstudio", "fiftyone",
    "kohya",
)  # fmt: skip
# Those that pictures go along with, or not, and those of ``export.PICTURE_FORMATS``.
LAYOUT_FORMATS = "llava, messages, yolo, labelstudio, fiftyone"
PICTURE_FORMATS = ("jpg", "png", "webp")
EXISTING = ("keep", "add", "replace")


def add_annotate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``annotate``. Every other option is Beam's, see ``annotate.beam_options``."""
    add_input_options(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder or bucket for the rows; a second run adds only what is missing",
    )
    add_task_options(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    add_job_options(parser)
    add_cluster_options(parser)
    add_report_option(parser)


def add_estimate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``estimate``: those of ``annotate`` that affect answers, ``--sample`` and ``--price-of``."""
    add_input_options(parser)
    add_task_options(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    group = parser.add_argument_group("estimate")
    group.add_argument(
        "--sample",
        type=int,
        default=SAMPLE_SIZE,
        metavar="N",
        help="number of pictures to annotate (default: %(default)s)",
    )
    group.add_argument(
        "--price-of",
        action="append",
        default=[],
        metavar="NAME=USD",
        help=f"price in dollars: {HERE}=USD for an hour of this machine, {CLOUD}=IN/OUT for a million tokens at "
        f"Moondream Cloud, {FAL}=USD for a request at fal; repeatable",
    )


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``status``."""
    parser.add_argument("output", metavar="OUT", help="folder that annotate writes to, on disk or in a bucket")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=WATCH_INTERVAL_S,
        metavar="SECONDS",
        help="repeat every SECONDS seconds (%(const)s if no number is given) until all runs have ended; "
        "wait for the first run",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        # The number is optional. In "--watch OUT", argparse takes OUT for the number.
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; give OUT before --watch") from None
    if not 0 < seconds <= MAX_WATCH_INTERVAL_S:
        raise argparse.ArgumentTypeError(f"{text}: give more than 0 seconds, and at most {MAX_WATCH_INTERVAL_S:.0f}")
    return seconds


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument("output", metavar="OUT", help="folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="allow http(s) requests to this machine and to private networks for thumbnails",
    )


def add_report_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-report``, for commands that end with a report."""
    parser.add_argument(
        "--no-report", dest="report", action="store_false", help=f"do not write {REPORT_NAME} at the end of the run"
    )


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``export``."""
    parser.add_argument("output", metavar="OUT", help="folder that annotate wrote, on disk or in a bucket")
    parser.add_argument(
        "--to",
        required=True,
        choices=EXPORT_FORMATS,
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
    _add_reading_options(parser)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about reading the pictures again."""
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
    along = parser.add_mutually_exclusive_group()
    for option, value, what in (
        ("--copy", "copy", "write copies of the pictures, upright (default); for sidecar and kohya too, beside texts"),
        ("--link", "link", "write symbolic links to the pictures, which must be files on this disk"),
        ("--no-images", "no", "write no pictures, and name each by its path below the input"),
    ):
        along.add_argument(
            option, dest="along", action="store_const", const=value, help=f"for {LAYOUT_FORMATS}: {what}"
        )
    parser.add_argument(
        "--split",
        metavar="NAME=SHARE,...",
        help="not for sidecar and kohya: divide the pictures into splits, such as train=0.95,val=0.05, by a hash of "
        "their bytes; a picture is in the same split in every run (default: one split)",
    )
    parser.add_argument(
        "--resize",
        type=int,
        metavar="PIXELS",
        help="make pictures smaller whose longer side has more pixels (default: pictures keep their size)",
    )
    parser.add_argument(
        "--format",
        choices=PICTURE_FORMATS,
        help="write all pictures in this file format (default: their own, if readers know it)",
    )


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the formats that write texts beside pictures."""
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
        choices=EXISTING,
        help="for sidecar and kohya: what to do with a text file that exists with other content: keep it, add the "
        "new lines at its end, or replace it (default: keep)",
    )


def add_push_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``push``."""
    parser.add_argument("output", metavar="OUT", help="folder that annotate wrote, on disk or in a bucket")
    parser.add_argument("dataset", metavar="OWNER/NAME", help="dataset on the hub; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make the dataset private; refuse one that is public")
    parser.add_argument(
        "--with-images",
        action="store_true",
        help="add a column image with the picture of each row, which the viewer of the hub shows",
    )
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="allow http(s) requests to this machine and to private networks for pictures",
    )


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    parser.add_argument(
        "--output",
        default="moondream-demo",
        metavar="FOLDER",
        help="folder for the pictures and the rows (default: %(default)s)",
    )
    add_report_option(parser)


class Command(NamedTuple):
    """A command: its name, its line in the help, and the function that adds its options to a parser."""

    name: str
    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]


COMMANDS = (
    Command("annotate", "annotate pictures, and write the answers to Parquet files", add_annotate_options),
    Command(
        "estimate", "annotate a sample, and estimate the time and the cost of the whole input", add_estimate_options
    ),
    Command("status", "show the progress of all runs that write to an output folder", add_status_options),
    Command(
        "report",
        "write an HTML page with pictures, statistics, errors and runs of an output folder",
        add_report_options,
    ),
    Command("export", "write the answers in a format that training tools read", add_export_options),
    Command(
        "push",
        "upload the answers to a dataset on the Hugging Face hub, with or without the pictures",
        add_push_options,
    ),
    Command("demo", "draw pictures, and annotate them with the embedded model", add_demo_options),
    Command(
        "env",
        "print versions, devices, extras and which credentials were found, for a bug report",
        lambda parser: None,
    ),
)
