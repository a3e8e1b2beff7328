"""The benchmark for a GPU runs whole on a CPU, with a small network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORK = ("--preset", "smallest", "--device", "cpu", "--goldens", "public")
SMALL = (*NETWORK, "--pictures", "1", "--slots", "1", "2", "--tokens", "3", "6", "9")


@pytest.mark.slow
def test_the_gpu_benchmark_writes_figures_of_every_part(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "LIMIT_FACTOR": "4"}
    ended = subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", *SMALL], env=environment, capture_output=True, text=True, timeout=1800
    )
    parts = json.loads((tmp_path / "results.json").read_text())
    assert set(parts) == {
        *("versions", "goldens", "checkpoint", "answers", "attention", "slots", "tasks", "naive", "profile", "pipeline")
    }, ended.stdout
    for figure in parts["goldens"].values():
        equal, total = figure.removesuffix(" rows").split(" of ")
        assert int(equal) == int(total) > 10
    assert len([name for name in parts["answers"] if "tokens" in name]) == 12
    assert all(figures["pictures/s"] > 0 for name, figures in parts["answers"].items() if "tokens" in name)
    for figures in parts["attention"].values():
        assert figures["as it is"] > 0 and figures["two products"] > 0
    assert parts["slots"]["same texts with every number of slots"] is True
    assert parts["pipeline"]["command, status"] == 0, parts["pipeline"]
    assert all(f"## {part}" in (tmp_path / "results.md").read_text() for part in parts)
