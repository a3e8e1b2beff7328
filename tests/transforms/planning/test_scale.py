"""Planning a hundred thousand pictures takes little more memory than planning a few."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PLANNING = Path(__file__).parents[3] / "benchmarks" / "planning.py"
ROWS = 100_000
# Measured: 35. A reference of its own at every step would take 200 more.
MEBIBYTES = 100


def plan(source: Path) -> tuple[int, int]:
    """Peak memory in MiB, and pictures, of a plan in a process of its own."""
    done = subprocess.run([sys.executable, PLANNING, "--plan", source], capture_output=True, text=True, check=True)
    _, _, peak, _, pictures = done.stdout.split()
    return int(peak), int(pictures)


def test_the_memory_of_a_plan_hardly_grows_with_its_manifest(tmp_path: Path) -> None:
    for name, rows in (("few", 10), ("many", ROWS)):
        (tmp_path / name).mkdir()
        urls = (f"https://images.example.org/{index:09}.jpg\n" for index in range(rows))
        (tmp_path / name / "urls.csv").write_text("url\n" + "".join(urls))
    (few, _), (many, pictures) = (plan(tmp_path / name / "urls.csv") for name in ("few", "many"))
    assert pictures == ROWS and many - few < MEBIBYTES
