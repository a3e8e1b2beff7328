"""``moondream-beam demo``: draw pictures, annotate them with the embedded model, and print the first rows."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

from ...models.atomic_files import write_atomic
from ...models.tiny.scenes import draw
from ...transforms.output.files import absolute
from ..building.arguments import check_annotate
from ..options.commands import add_annotate_options
from ..options.parser import startup_errors
from . import annotate

# No scene of the training, the tests or the benchmarks of the embedded model has one of these seeds.
DEMO_SEEDS = range(2**43, 2**43 + 48)
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP"}
TASK_ARGUMENTS = (
    "--caption",
    "normal",
    "--query",
    "How many shapes are there?",
    "--detect",
    "shape",
    "--point",
    "triangle",
)


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit status of ``annotate``.

    Raises:
        StartupError: if the folder cannot be written.
    """
    with startup_errors():
        folder = Path(absolute(args.output))
        pictures, output = folder / "pictures", folder / "out"
        count = draw_pictures(pictures)
    print(f"drew {count} pictures into {pictures}, and broke one on purpose", file=sys.stderr)
    annotate_args = _annotate_arguments(pictures, output, report=args.report)
    with startup_errors():
        inputs = check_annotate(annotate_args, [])
    return annotate.run(annotate_args, [], inputs, show_answers=True)


def draw_pictures(folder: Path) -> int:
    """Draw one scene for each of DEMO_SEEDS into a folder, and truncate the last file. Return the number of files.

    Raises:
        ValueError: if a file of one of their names is there with other content. No file is written then.
    """
    files = {}
    for index, seed in enumerate(DEMO_SEEDS):
        extension = list(FORMATS)[index % len(FORMATS)]
        drawn = io.BytesIO()
        draw(seed).image.save(drawn, FORMATS[extension], quality=95)
        files[folder / f"scene-{index:02d}.{extension}"] = drawn.getvalue()
    broken = list(files)[-1]
    files[broken] = files[broken][:-100]
    for path, content in files.items():
        if path.exists() and path.read_bytes() != content:
            raise ValueError(f"{path} is there already with other content: give --output another folder")
    for path, content in files.items():
        write_atomic(path, content)
    return len(files)


def _annotate_arguments(pictures: Path, output: Path, *, report: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_annotate_options(parser)
    # One picture in 48 is broken on purpose. Temperature 0 gives the same answers in each demo.
    options = ["--model", "tiny", "--temperature", "0", "--max-failure-rate", "0.05", "--workers", "1"]
    options += [] if report else ["--no-report"]
    return parser.parse_args([os.fspath(pictures), "--output", os.fspath(output), *TASK_ARGUMENTS, *options])
