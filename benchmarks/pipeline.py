"""Processor time of a picture: the bare engine, the plain generator and the command, in one process and in turns.

``python benchmarks/pipeline.py --pictures 300 --size 640x480``. The engine gets decoded pictures. The generator decodes
JPEG files. The command plans them too, writes Parquet, and ends as on a terminal. A round runs all ways, for all
pictures and for one. A picture costs the difference, so that what a run costs at all is shown apart. The end of the
command is what follows the last answer, with and without the report. Decoding is that of Pillow alone, and that of the
package, which decodes a large JPEG at a half, a quarter or an eighth of its size. The engine gets these pictures.
Threads of PyTorch sleep while they wait (OMP_WAIT_POLICY), because on a busy machine their waiting would take most of
the time. ``engine/ray_data.py`` is the row of Ray Data.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from moondream_beam import Caption, ImageRef, Moondream, annotate
from moondream_beam.models.tasks import Request, Sampling
from moondream_beam.models.tiny.scenes import draw
from moondream_beam.pipelines.cli import main as run_command
from moondream_beam.transforms.images.decode import decode_pixels, open_image, reduce_jpeg

TASK, SAMPLING = Caption(), Sampling(temperature=0)
PACKAGE = "decoding, as the package does it"
# Standard deviation of the noise in grey levels. Without noise, decoding would take a third of the time.
NOISE = 6
Usage = tuple[float, float]


def main() -> None:
    """Measure all ways, and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:
        # PyTorch reads this variable when it is imported.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "passive"})
    width, height = map(int, args.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder, "photos"), args.pictures, (width, height))
        print(f"{args.pictures} pictures of {args.size}, {args.rounds} rounds\n")
        measure_all(Path(folder), paths, args.rounds)


def write_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write JPEG files of drawn scenes with the noise of a sensor, one in a folder of its own, ``count`` in another."""
    paths = []
    noise = np.random.default_rng(1).normal(0, NOISE, (size[1], size[0], 3)).astype(np.int16)
    for number in range(count + 1):
        path = folder / ("one" if number == count else "all") / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(draw(number, size).image, np.int16) + np.roll(noise, number, axis=0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def decode(path: Path, annotator: Moondream) -> Request:
    """Return the request with the picture of a JPEG file as the package decodes it for the annotator."""
    image = open_image(path.read_bytes())
    size = reduce_jpeg(image, annotator.accepts_reduced)
    return Request(str(path), decode_pixels(image), TASK, SAMPLING, size=size)


def measure_all(folder: Path, paths: list[Path], rounds: int) -> None:
    """Measure all ways ``rounds`` times, and print the medians."""
    annotator = Moondream("tiny")
    ends: dict[str, list[Usage]] = {"report": [], "no report": []}
    *some, one = paths

    def engine(chosen: list[Path]) -> Usage:
        requests = [decode(path, annotator) for path in chosen]
        return used(lambda: list(annotator.answer(requests)))

    def generator(chosen: list[Path]) -> Usage:
        refs = [ImageRef(str(path), path.name) for path in chosen]
        return used(lambda: list(annotate(refs, [TASK], annotator, sampling=SAMPLING)))

    def command(chosen: list[Path], report: bool = True) -> Usage:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            usage, end = used_by_command(chosen[0].parent, Path(out, "out"), report)
        if len(chosen) > 1:
            ends["report" if report else "no report"].append(end)
        return usage

    ways: dict[str, Callable[[list[Path]], Usage]] = {
        "decoding, Pillow": lambda chosen: used(lambda: [Image.open(path).convert("RGB") and None for path in chosen]),
        PACKAGE: lambda chosen: used(lambda: [decode(path, annotator) and None for path in chosen]),
        "bare engine": engine,
        "plain generator": generator,
        "command": command,
        "command, --no-report": lambda chosen: command(chosen, False),
    }
    measured: dict[str, list[Usage]] = {way: [] for way in ways}
    fixed: dict[str, list[Usage]] = {way: [] for way in ways}
    for way in ways.values():
        way([one])
    for _ in range(rounds):
        for name, way in ways.items():
            cpu_of_one, clock_of_one = way([one])
            cpu, clock = way(some)
            fixed[name].append((cpu_of_one, clock_of_one))
            pictures = (len(some) - 1) / 1000
            measured[name].append(((cpu - cpu_of_one) / pictures, (clock - clock_of_one) / pictures))
    print_ways({name: median(usages) for name, usages in measured.items()})
    print("\n| one picture | CPU s | clock s |\n|---|---|---|")
    for name, usages in fixed.items():
        print("| {} | {:.2f} | {:.2f} |".format(name, *median(usages)))
    print("\n| end of the command | CPU s | clock s |\n|---|---|---|")
    for name, usages in ends.items():
        print("| {} | {:.2f} | {:.2f} |".format(name, *median(usages)))


def print_ways(ways: dict[str, Usage]) -> None:
    """Print milliseconds a picture, relative to the bare engine, and what remains besides engine and decoding."""
    print("| way | CPU ms a picture | relative to the engine | besides engine and decoding, ms | clock ms a picture |")
    print("|---|---|---|---|---|")
    decoding, engine = ways[PACKAGE][0], ways["bare engine"][0]
    for name, (cpu, clock) in ways.items():
        rest = f"{cpu - engine - decoding:.2f}" if "generator" in name or "command" in name else ""
        print(f"| {name} | {cpu:.2f} | {cpu / engine:.2f} x | {rest} | {clock:.2f} |")


def used(work: Callable[[], object]) -> Usage:
    """Return the processor seconds of all threads of this process, and the seconds by the clock, of some work."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def used_by_command(pictures: Path, out: Path, report: bool) -> tuple[Usage, Usage]:
    """Return what the command takes in this process, and what of it follows the last answer."""
    words = ["annotate", str(pictures), "--model", "tiny", "--caption", "normal", "--temperature", "0"]
    words += ["--output", str(out), *([] if report else ["--no-report"])]
    with (
        tempfile.TemporaryFile("w") as quiet,
        sampled_usage() as samples,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        status: list[int] = []
        usage = used(lambda: status.append(run_command(words)))
    if status != [0]:
        raise RuntimeError(f"{' '.join(words)}: status {status}")
    rows = pq.read_table(out / "data", columns=["created_at"])["created_at"].to_pylist()
    last = max(rows).timestamp()
    first = samples[max(0, bisect.bisect(samples, (last, 0.0)) - 1)]
    return usage, (samples[-1][1] - first[1], samples[-1][0] - last)


@contextlib.contextmanager
def sampled_usage() -> Iterator[list[tuple[float, float]]]:
    """Yield a list that gets the time and the processor seconds so far every 5 ms, and at the end of the block."""
    samples: list[tuple[float, float]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.005):
            samples.append((time.time(), time.process_time()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
        samples.append((time.time(), time.process_time()))


def median(usages: list[Usage]) -> Usage:
    """Return the medians of both columns."""
    cpu, clock = map(statistics.median, zip(*usages, strict=True))
    return cpu, clock


if __name__ == "__main__":
    main()
