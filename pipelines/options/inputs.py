"""Options for the input: paths of pictures, manifests, and the columns of manifests."""

from __future__ import annotations

import argparse
from typing import get_args

from ...transforms.core.records import IGNORE_PROFILES, ColourProfiles

DEFAULT_URI_COLUMN = "url"


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """Add the INPUTs, ``--manifest`` and the options about its columns, and the options about all pictures."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="file, folder or quoted glob, on disk, in a bucket (s3://, gs://, az://, hdfs://) or a dataset "
        "(hf://datasets/OWNER/NAME[@REVISION]), or an http(s) URL",
    )
    _add_manifest_options(parser)
    _add_picture_options(parser)


def _add_manifest_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "manifests", "tables with one picture in each row; prompts may contain column names in {braces}"
    )
    group.add_argument(
        "--manifest",
        action="append",
        default=[],
        metavar="FILE",
        help="table (.csv, .tsv, .jsonl, .ndjson, .parquet, .arrow) or folder of tables, on disk or in a bucket, or a "
        "quoted glob; repeatable",
    )
    group.add_argument(
        "--split",
        metavar="NAME",
        help="of hf://datasets/OWNER/NAME or a folder of datasets.save_to_disk, read this split only",
    )
    group.add_argument("--config", metavar="NAME", help="config (subset) of that dataset (default: default, or only)")
    _add_column_options(group)


def _add_column_options(group: argparse._ArgumentGroup) -> None:
    for option, help in (
        ("--uri-column", f"column with the path or URL of the picture (default: {DEFAULT_URI_COLUMN})"),
        (
            "--image-column",
            "column of Parquet or Arrow with the picture as bytes or {bytes, path}; replaces --uri-column (default: "
            "the only such column, if there is no column url)",
        ),
        (
            "--filename-column",
            "column with the name of the picture (default: its path below the manifest, or URL's end)",
        ),
        ("--prompt-column", "column with a question about the picture; without a manifest, a field of its .json file"),
        ("--root", "folder or bucket of relative paths (default: that of the manifest); finds names without extension"),
    ):
        group.add_argument(option, metavar="FOLDER" if option == "--root" else "NAME", help=help)
    group.add_argument(
        "--skip-empty-prompts",
        action="store_true",
        help="leave out and count the prompts whose column is empty (default: they become rows in errors/)",
    )
    group.add_argument(
        "--keep-columns",
        default="",
        metavar="A,B",
        help="columns to copy to the rows in data/, separated by commas; SOURCE=NAME copies one under another name; "
        "without a manifest, fields of the .json file beside each picture, in a folder or an archive",
    )


def _add_picture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="allow http(s) requests to this machine and to private networks",
    )
    parser.add_argument(
        "--colour-profiles",
        choices=get_args(ColourProfiles),
        default=IGNORE_PROFILES,
        help="ignore the ICC profiles of pictures, or convert their colours to srgb; each choice makes requests of its "
        "own (default: %(default)s)",
    )
