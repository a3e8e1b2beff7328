"""How far an estimate from a sample is from the run that follows.

python benchmarks/estimating.py [PICTURES SAMPLE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from moondream_beam.models.tiny.scenes import draw

FIRST_SEED = 2**44
TASKS = ("--caption", "normal", "--query", "How many shapes are there?", "--detect", "shape")


def printed(*words: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "moondream_beam.pipelines.cli", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def run(pictures: int, sample: int) -> None:
    """Estimate, annotate, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        for seed in range(FIRST_SEED, FIRST_SEED + pictures):
            draw(seed).image.save(folder / f"{seed}.jpg")
        words = (str(folder), "--model", "tiny", *TASKS)
        said = printed("estimate", *words, "--sample", str(sample))
        pace = float(said.split("pace ")[1].split()[0].replace(",", ""))
        printed("annotate", *words, "--output", f"{name}/out", "--no-report")
        seconds = json.loads(next(Path(name, "out", "runs").iterdir()).read_text())["wall_seconds"]
    print(
        f"{pictures} pictures, a sample of {sample}: {pictures / pace:.1f} s estimated, {seconds:.1f} s taken, ", end=""
    )
    print(f"{100 * (pictures / pace / seconds - 1):+.0f} %")


if __name__ == "__main__":
    run(*(int(word) for word in (sys.argv[1:] or ("2000", "200"))))
