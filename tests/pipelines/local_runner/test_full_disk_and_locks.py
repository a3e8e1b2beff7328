"""The command with a full disk, a locked output, workers that outlive it, an interrupt, and too many failures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.running.launcher import PATIENCE, Launcher
from support.running.output_ids import ids

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw

BUSY, INTERRUPTED = 2, 130


@pytest.fixture
def words(tmp_path: Path) -> tuple[Any, ...]:
    """Return the arguments to annotate 60 pictures in shards of about 4 pictures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, seed in zip(range(60), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(photos / f"{index}.png")
    out = tmp_path / "out"
    return (
        "annotate",
        photos,
        "--output",
        out,
        "--model",
        "tiny",
        "--caption",
        "short",
        "--shard-size",
        4,
        "--no-report",
    )


def without_progress(said: str) -> list[str]:
    """Return the lines that a command printed, without those of its start and of its progress.

    A slow machine has lines of progress. Lines about the model and about memory stand at the start.
    """
    others = (" requests, ", "tiny knows drawings", "batch size ")
    return [line for line in said.splitlines() if not any(other in line for other in others)]


@pytest.mark.slow
def test_a_full_disk_is_one_line_of_error_and_the_run_can_be_resumed(tmp_path, words, launcher: Launcher) -> None:
    out = tmp_path / "out"
    # The limit on the size of a file acts like a disk that is full halfway through a shard.
    assert launcher.run(*words, "--query", "How many?", "--shard-size", 1000, largest_file=9000) == 1
    said = launcher.said().splitlines()
    assert [line for line in said if "Traceback" in line] == []
    assert sum("stopped: can't write to" in line and "run the same command again" in line for line in said) == 1
    assert not list(out.rglob("*.parquet"))
    assert launcher.run(*words, "--query", "How many?", "--shard-size", 1000) == 0
    assert len(ids(out)) == 120
    assert not (out / "_temporary").exists()


@pytest.mark.slow
def test_of_two_commands_at_once_the_second_is_refused(tmp_path, words, launcher: Launcher) -> None:
    first = launcher.start(*words, hold_after=1)
    # The first command is suspended, but alive, so its lock holds.
    launcher.held(first)
    assert launcher.run(*words) == BUSY
    launcher.go_on(first)
    assert "is writing to it. Wait until it ends" in launcher.said()
    assert launcher.ended(first) == 0
    asked = launcher.asked()
    assert len(asked) == len(set(asked)) == len(ids(tmp_path / "out")) == 60
    assert launcher.run(*words) == 0
    assert launcher.asked() == asked


@pytest.mark.slow
def test_a_file_that_is_deleted_during_the_run_is_reported_and_a_second_run_repairs_it(
    tmp_path, words, launcher
) -> None:
    process, out = launcher.start(*words, hold_after=30), tmp_path / "out"
    launcher.held(process)
    min(out.glob("data/*.parquet")).unlink()
    launcher.go_on(process)
    assert launcher.ended(process) == 1
    said = launcher.said()
    assert "60 requests, 60 rows reported by the workers" in said and "DOES NOT BALANCE" in said
    assert "run the same command again to process only what is missing" in said
    assert len(ids(out)) < 60
    assert launcher.run(*words) == 0
    assert len(ids(out)) == 60


@pytest.mark.slow
def test_two_commands_that_start_at_the_same_time_ask_nothing_twice(tmp_path, words, launcher: Launcher) -> None:
    both = [launcher.start(*words), launcher.start(*words)]
    assert {launcher.ended(process) for process in both} <= {0, BUSY}
    assert launcher.run(*words) == 0
    assert len(launcher.asked()) == len(ids(tmp_path / "out")) == 60


@pytest.mark.slow
def test_workers_that_outlive_their_command_write_no_row_twice(tmp_path, words, launcher: Launcher) -> None:
    process, out = launcher.start(*words, "--workers", 2), tmp_path / "out"
    end = time.monotonic() + PATIENCE
    while not list(out.glob("data/*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.01)
    # Kill only the command and not its workers, as the kernel does if memory runs out.
    os.kill(process, signal.SIGKILL)
    launcher.ended(process)
    while (status := launcher.run(*words)) == BUSY:
        assert time.monotonic() < end
    assert status == 0
    assert len(ids(out)) == 60
    time.sleep(1)
    assert len(ids(out)) == 60
    assert not (out / "_temporary").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "send, how",
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM), (os.killpg, signal.SIGTERM)],
    ids=["Ctrl-C", "SIGTERM to the command", "SIGTERM to all its processes"],
)
def test_an_interrupt_while_workers_are_at_work_is_one_line(
    tmp_path, words, launcher: Launcher, send: Callable[[int, int], None], how: int
) -> None:
    process, end = launcher.start(*words, "--workers", 2), time.monotonic() + PATIENCE
    while not list(tmp_path.glob("out/data/*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.01)
    send(process, how)
    assert launcher.ended(process) == 128 + how
    (line,) = without_progress(launcher.said())[1:]
    assert line.startswith("interrupted: ") and "requests are left: run the same command again" in line


@pytest.mark.slow
def test_ctrl_c_while_workers_start_is_one_line_at_once(words, launcher: Launcher) -> None:
    process = launcher.start(*words, "--workers", 2, SHUTDOWN_TIMEOUT_S=PATIENCE)
    began = time.monotonic()
    while len(psutil.Process(process).children()) < 2:
        assert time.monotonic() < began + PATIENCE
        time.sleep(0.01)
    os.killpg(process, signal.SIGINT)
    interrupted = time.monotonic()
    assert launcher.ended(process) == INTERRUPTED
    assert time.monotonic() < interrupted + PATIENCE / 2
    (line,) = without_progress(launcher.said())[1:]
    assert line.startswith("interrupted") and "run the same command again" in line


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_too_many_failures_end_the_command_early_with_one_line(tmp_path, launcher: Launcher, workers: int) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(400):
        (photos / f"{index}.jpg").write_bytes(b"<html>")
    words = ("annotate", photos, "--output", out, "--model", "tiny", "--caption", "short", "--shard-size", 50)
    assert launcher.run(*words, "--max-failure-rate", 0.2, "--workers", workers) == 1
    said = launcher.said()
    assert said.count("more than --max-failure-rate") == 1
    assert "Traceback" not in said and "ERROR" not in said
    # The rows that were counted when the run stopped, of which those on their way are asked again.
    assert 90 <= len(ids(out)) < 400
    assert not (out / "runs").exists()
    assert launcher.run(*words) == 1
    assert len(ids(out)) == 400
