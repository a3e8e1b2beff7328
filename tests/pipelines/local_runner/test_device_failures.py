"""A device that fails in one worker process: the others do its shards, and the command says so once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.running.drill import draw_pictures
from support.running.launcher import Launcher
from support.running.output_ids import ids

PICTURES = 24
LIMITS = {"rate": 400, "batch": 2}


@pytest.fixture
def words(tmp_path: Path) -> tuple[Any, ...]:
    """Return the arguments to annotate 24 pictures in at least 12 shards with 2 workers."""
    photos = draw_pictures(tmp_path / "photos", PICTURES, broken=0)
    options = ("--model", "tiny", "--caption", "short", "--shard-size", 2, "--workers", 2, "--no-report")
    return ("annotate", photos, "--output", tmp_path / "out", *options)


def record_of(out: Path) -> dict[str, Any]:
    (path,) = (out / "runs").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.mark.slow
def test_the_shards_of_a_worker_whose_device_fails_are_done_by_others(tmp_path, words, launcher: Launcher):
    status = launcher.run(*words, **LIMITS, failing=1, fails_after=1)
    said, record, out = launcher.said(), record_of(tmp_path / "out"), tmp_path / "out"
    assert status == 0, said
    rows = Counter(ids(out))
    assert len(rows) == PICTURES and set(rows.values()) == {1}
    assert not (out / "_temporary").exists()
    # The answer that the worker gave before is kept: nothing is asked twice.
    assert len(launcher.asked()) == len(set(launcher.asked())) == PICTURES
    assert record["balanced"] and record["counts"]["pending"] == record["counts"]["annotations"] == PICTURES
    assert record["device_failures"] == {"worker_0": "CUDA error: unspecified launch failure"}
    assert said.count("worker_0: its device failed") == said.count("worker_0 FAILED") == 1
    assert "balances" in said and "Traceback" not in said and "stopped" not in said


@pytest.mark.slow
def test_a_run_whose_weights_fit_on_no_device_ends_with_one_line_for_all(tmp_path, words, launcher: Launcher):
    assert launcher.run(*words, **LIMITS, failing=2, fails_after=0) == 1
    said, out = launcher.said(), tmp_path / "out"
    (line,) = [line for line in said.splitlines() if "stopped: " in line]
    assert all(f"worker_{number}: CUDA out of memory" in line for number in (0, 1)) and "same command again" in line
    assert "Traceback" not in said and not (out / "runs").exists() and ids(out) == []
