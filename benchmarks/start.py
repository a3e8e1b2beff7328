"""Processor seconds and seconds by the clock until a command has done its work, beside importing torch and Beam.

``python benchmarks/start.py --rounds 5``. Each command runs in a process of its own, in turns, so that other work
on the machine affects all of them. A ratio is that of the medians in one run. One picture is annotated, and its output
is read.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from moondream_beam.models.tiny.scenes import draw

BASE = "import torch and Beam"


def main() -> None:
    """Run all commands in turns, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        commands = prepare(Path(folder))
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        # The first round fills the caches of the disk.
        for number in range(rounds + 1):
            for name, command in commands.items():
                shutil.rmtree(Path(folder, "new"), ignore_errors=True)
                Path(folder, "rows.jsonl").unlink(missing_ok=True)
                seconds = measure(command)
                if number:
                    measured[name].append(seconds)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in measured.items()
    }
    print("| command | CPU s | ratio | clock s | ratio |\n|---|---|---|---|---|")
    for name, (core, clock) in medians.items():
        base_core, base_clock = medians[BASE]
        print(f"| {name} | {core:.2f} | {core / base_core:.2f} | {clock:.2f} | {clock / base_clock:.2f} |")


def prepare(folder: Path) -> dict[str, list[str]]:
    """Draw one picture, annotate it, and return the commands by name."""
    pictures, output = folder / "pictures", os.fspath(folder / "out")
    pictures.mkdir()
    draw(5).image.save(pictures / "a.png")
    command = [sys.executable, "-m", "moondream_beam.pipelines.cli"]
    annotate = [*command, "annotate", os.fspath(pictures), "--model", "tiny", "--output"]
    subprocess.run([*annotate, output], check=True, capture_output=True)
    return {
        BASE: [sys.executable, "-c", "import torch, apache_beam"],
        "import duckdb and pyarrow": [sys.executable, "-c", "import duckdb, pyarrow"],
        "--help": [*command, "--help"],
        "--version": [*command, "--version"],
        "annotate with a mistyped option": [*annotate, output, "--quary", "What?"],
        "annotate a folder that does not exist": [*command, "annotate", "nowhere", "--output", output],
        "status": [*command, "status", output],
        "report": [*command, "report", output],
        "export --to jsonl": [*command, "export", output, os.fspath(folder / "rows.jsonl"), "--to", "jsonl"],
        "annotate one picture": [*annotate, os.fspath(folder / "new")],
        "annotate one picture, --no-report": [*annotate, os.fspath(folder / "new"), "--no-report"],
    }


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command, and return its processor seconds and its seconds by the clock."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, capture_output=True)
    clock, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


if __name__ == "__main__":
    main()
