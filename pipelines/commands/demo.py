"""``moondream-beam demo``: draw pictures, annotate them with the embedded model, show what came out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...models.tiny.scenes import draw
from ..options.parser import reject_unknown_args, startup_errors
from . import annotate
from .report import add_report_option

# Far from all that the embedded model was trained, tested and measured with.
DEMO_SEEDS = range(2**43, 2**43 + 48)
EXTENSIONS = ("jpg", "png", "webp", "bmp")
ROWS_SHOWN = 8
COLUMNS = ("filename", "task", "prompt", "answer")
TASKS = ("--caption", "normal", "--query", "How many shapes are there?", "--detect", "shape", "--point", "triangle")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--output", default="moondream-demo", metavar="FOLDER", help="where pictures and rows go (%(default)s)"
    )
    add_report_option(parser)


def run(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Run the command; the exit status.

    Raises:
        CannotStartError: unknown arguments, or a folder that can't be written.
    """
    with startup_errors():
        reject_unknown_args(args, others)
        pictures, output = Path(args.output, "pictures"), Path(args.output, "out")
        count = draw_pictures(pictures)
    print(f"drew {count} pictures into {pictures}, one of them broken on purpose", file=sys.stderr)
    status = annotate.run(_annotate_arguments(pictures, output, report=args.report), [])
    print()
    for line in table(first_rows(output)):
        print(line)
    return status


def draw_pictures(folder: Path) -> int:
    """Draw the demo's scenes, in several formats and sizes, and break the last one; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scene-{index:02d}.{EXTENSIONS[index % 4]}" for index in range(len(DEMO_SEEDS))]
    for seed, path in zip(DEMO_SEEDS, paths, strict=True):
        draw(seed).image.save(path, quality=95)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-100])
    return len(paths)


def first_rows(output: Path) -> list[tuple[str, ...]]:
    """The first rows of ``data/`` by name of their picture, as text."""
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(output.glob("data/*.parquet")))
    rows = rows.sort_by([("filename", "ascending"), ("task", "ascending")]).slice(0, ROWS_SHOWN)
    return [(row["filename"], row["task"], row["prompt"], _answer(row)) for row in rows.to_pylist()]


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Lines of text with columns as wide as what is in them."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        yield "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()


def _answer(row: dict[str, object]) -> str:
    if isinstance(caption := row["caption"], str):
        return caption
    places = row["objects"] if row["objects"] is not None else row["points"]
    assert isinstance(places, list)
    return " ".join(f"({', '.join(f'{number:.2f}' for number in place.values())})" for place in places) or "none"


def _annotate_arguments(pictures: Path, output: Path, *, report: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    annotate.add_options(parser)
    # One failure in 48 is meant; the likeliest words, since the same demo should tell the same story.
    options = ["--model", "tiny", "--temperature", "0", "--max-failure-rate", "0.05"]
    options += [] if report else ["--no-report"]
    return parser.parse_args([os.fspath(pictures), "--output", os.fspath(output), *TASKS, *options])
