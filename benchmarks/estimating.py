"""The error of an estimate from a sample, compared with the run: python benchmarks/estimating.py [PICTURES SAMPLE]."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from moondream_beam.models.tiny.scenes import draw

FIRST_SEED = 2**44
TASKS = ("--caption", "normal", "--query", "How many shapes are there?", "--detect", "shape")


def run_command(*arguments: str) -> str:
    """Run a moondream-beam command and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "moondream_beam.pipelines.cli", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def run(pictures: int, sample: int) -> None:
    """Estimate from a sample, annotate all pictures, and print both times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        for seed in range(FIRST_SEED, FIRST_SEED + pictures):
            draw(seed).image.save(folder / f"{seed}.jpg")
        arguments = (str(folder), "--model", "tiny", *TASKS)
        text = run_command("estimate", *arguments, "--sample", str(sample))
        pace = float(text.split("pace ")[1].split()[0].replace(",", ""))
        run_command("annotate", *arguments, "--output", f"{name}/out", "--no-report")
        seconds = json.loads(next(Path(name, "out", "runs").iterdir()).read_text())["wall_seconds"]
    print(
        f"{pictures} pictures, a sample of {sample}: {pictures / pace:.1f} s estimated, {seconds:.1f} s taken, ", end=""
    )
    print(f"{100 * (pictures / pace / seconds - 1):+.0f} %")


if __name__ == "__main__":
    run(*(int(word) for word in (sys.argv[1:] or ("2000", "200"))))
