"""A plan for a hundred thousand images takes little more memory than a plan for a few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PLANNING = Path(__file__).parents[3] / "benchmarks" / "planning.py"
ROWS = 100_000
# Measured: 35. With one element per reference at every step it would be 200 more.
MEBIBYTES = 100


def plan(source: Path) -> tuple[int, int]:
    """Return the peak memory in MiB, and the number of images, of a plan in a separate process."""
    done = subprocess.run([sys.executable, PLANNING, "--plan", source], capture_output=True, text=True, check=True)
    _, _, peak, _, pictures = done.stdout.split()
    return int(peak), int(pictures)


def test_the_memory_of_a_plan_hardly_grows_with_the_manifest(tmp_path: Path) -> None:
    for name, rows in (("few", 10), ("many", ROWS)):
        (tmp_path / name).mkdir()
        urls = (f"https://images.example.org/{index:09}.jpg\n" for index in range(rows))
        (tmp_path / name / "urls.csv").write_text("url\n" + "".join(urls))
    (few, _), (many, pictures) = (plan(tmp_path / name / "urls.csv") for name in ("few", "many"))
    assert pictures == ROWS and many - few < MEBIBYTES
