"""Processor time of worker processes: ``--engine spark`` on this machine beside ``--workers 2``, in turns.

``python benchmarks/servers/spark_workers.py --pictures 600``. Both have two worker processes of one thread, which load
the model and answer. Their processor seconds are read from the system every 50 ms, from their start to their end. Java
is left out. A picture costs the difference between a run of all pictures and a run of few, so that the start of the
processes and the load of the model are shown apart. Needs Java 17.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from moondream_beam.models.tiny.scenes import draw

POLL_S = 0.05
# Pictures of the run that shows what a start costs.
FEW = 20
# Way -> its options, and a part of the command lines of its worker processes.
WAYS = {
    "--workers 2": (["--workers", "2"], "local_runner.worker"),
    "--engine spark": (["--engine", "spark", "--master", "local[2]"], "pyspark.daemon"),
}


def main() -> None:
    """Measure both ways in turns, and print a Markdown table of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    usages: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.pictures + FEW):
            path = Path(folder, "few" if number < FEW else "all", f"{number:06}.jpg")
            path.parent.mkdir(exist_ok=True)
            draw(number, (width, height)).image.save(path, quality=90)
        for number in range(args.rounds):
            for way, (options, mark) in WAYS.items():
                out = Path(folder, f"{way}-{number}")
                start = used(path.parents[1] / "few", out / "few", options, mark)
                whole = used(path.parents[1] / "all", out / "all", options, mark)
                usages[way].append((start, 1000 * (whole - start) / (args.pictures - FEW)))
    print(f"{args.pictures} pictures of {args.size}, {args.rounds} rounds\n")
    print(f"| way | workers with {FEW} pictures, CPU s | CPU ms a picture | relative to --workers 2 |")
    print("|---|---|---|---|")
    first = None
    for way, measured in usages.items():
        start, a_picture = (statistics.median(column) for column in zip(*measured, strict=True))
        first = first or a_picture
        print(f"| {way} | {start:.2f} | {a_picture:.2f} | {a_picture / first:.2f} x |")


def used(pictures: Path, out: Path, options: list[str], mark: str) -> float:
    """Return the processor seconds of the worker processes of a command, whose command lines contain ``mark``."""
    words = ["annotate", str(pictures), "--model", "tiny", "--caption", "normal", "--temperature", "0", "--no-report"]
    words += ["--output", str(out), "--shard-size", "50", *options]
    # PyTorch reads these variables. Threads that wait for work would take most of the time on a busy machine.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "SPARK_LOCAL_IP": "127.0.0.1"}
    command = psutil.Popen(
        [sys.executable, "-m", "moondream_beam.pipelines.cli", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    workers: dict[int, float] = {}
    while command.poll() is None:
        for process in children_of(command):
            try:
                if mark in " ".join(process.cmdline()):
                    workers[process.pid] = sum(process.cpu_times()[:2])
            except psutil.Error:
                # It has ended. Its last reading counts.
                continue
        time.sleep(POLL_S)
    if command.returncode:
        raise RuntimeError(f"{' '.join(words)}: status {command.returncode}")
    return sum(workers.values())


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """Return all processes below a process; an empty list if it has ended."""
    try:
        children: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return children


if __name__ == "__main__":
    main()
