"""Workers of this machine that die or hang in the middle of a shard, and a shard attempted twice at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil
import pytest
from support.data.echo import Echo
from support.running.gate import Gate, gate
from support.running.launcher import PATIENCE, Launcher
from support.running.output_ids import ids

from moondream_beam.models.tasks import Caption
from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.transforms.annotation.job import _AnnotateShard
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.output.lock import run_lock

PICTURES, BUSY = 60, 2


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[Gate, tuple[Any, ...]]]:
    """The command over sixty pictures, in shards of about four, by two processes: half of them wait at a gate."""
    with gate(tmp_path / "photos", PICTURES, PICTURES // 2) as (made, manifest):
        options = ("--model", "tiny", "--caption", "short", "--shard-size", 4, "--workers", 2, "--no-report")
        inputs = ("--manifest", manifest, "--allow-private-addresses")
        yield made, ("annotate", *inputs, "--output", tmp_path / "out", *options)


def all_done(out: Path) -> bool:
    """Whether each row is there, and nothing else."""
    return len(ids(out)) == PICTURES and not (out / "_temporary").exists()


@pytest.mark.slow
def test_a_worker_that_hangs_and_wakes_up_after_its_command_doubles_nothing(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words)
    worker = gate.waiter(process)
    worker.suspend()
    os.kill(process, signal.SIGKILL)
    launcher.ended(process)
    gate.open.set()
    assert len(ids(out)) < PICTURES
    # It is in the middle of a shard, which is its own as long as it lives.
    assert launcher.run(*words) == BUSY
    worker.resume()
    end = time.monotonic() + PATIENCE
    while (status := launcher.run(*words)) == BUSY:
        assert time.monotonic() < end
    assert status == 0
    worker.wait(PATIENCE)
    assert all_done(out)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_command_with_a_line(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words)
    gate.waiter(process).kill()
    gate.open.set()
    assert launcher.ended(process) == 1
    said = launcher.said()
    assert said.count("stopped: worker_") == 1 and "was killed by signal 9 (possibly out of memory) in shard" in said
    assert "Traceback" not in said
    assert len(ids(out)) < PICTURES
    assert launcher.run(*words) == 0
    assert all_done(out)


@pytest.mark.slow
def test_a_worker_that_shows_no_sign_of_life_is_killed_and_told(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words, HEARTBEAT_TIMEOUT_S=8)
    worker = gate.waiter(process)
    worker.suspend()
    gate.open.set()
    assert launcher.ended(process) == 1
    assert not worker.is_running()
    said = launcher.said()
    assert said.count("stopped: worker_") == 1
    assert "sent no heartbeat for 8 s in shard" in said and ", and was killed. Committed rows are kept." in said
    assert "Traceback" not in said
    assert launcher.run(*words) == 0
    assert all_done(out)


@pytest.mark.slow
def test_a_worker_that_lives_but_has_no_new_row_is_killed_and_told(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words, FIRST_ROW_TIMEOUT_S=6, ROW_TIMEOUT_S=6, SHUTDOWN_TIMEOUT_S=2)
    # Nobody opens the gate.
    assert launcher.ended(process) == 1
    assert "produced no row for 6 s in shard" in launcher.said()
    gate.open.set()
    assert launcher.run(*words) == 0
    assert all_done(out)


@pytest.mark.slow
def test_a_command_that_slept_with_its_workers_goes_on(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words, HEARTBEAT_TIMEOUT_S=8)
    gate.waiter(process)
    os.killpg(process, signal.SIGSTOP)
    time.sleep(12)
    launcher.go_on(process)
    gate.open.set()
    assert launcher.ended(process) == 0
    assert all_done(out)


@pytest.mark.parametrize("turn", range(5))
def test_a_shard_attempted_twice_at_once_ends_as_one_file(tmp_path, turn):
    refs = []
    for index, seed in zip(range(6), TEST_SEEDS, strict=False):
        path = tmp_path / f"{index}.png"
        draw(seed).image.resize((48, 36)).save(path)
        refs.append(ImageRef(str(path), path.name))
    out, together = str(tmp_path / "out"), Barrier(2)

    class Waiting(Echo):
        """Both attempts end at about the same moment."""

        def answer(self, requests):
            yield from super().answer(requests)
            together.wait(10)

    def attempt(_: int) -> list[Any]:
        step = _AnnotateShard(Job((Caption(),), Waiting(), run="run"), out)
        return list(step.process((0, refs), Count(6, 6)))

    with run_lock(out, "run"), ThreadPoolExecutor(2) as pool:
        summaries = [summary for summaries in pool.map(attempt, range(2)) for summary in summaries]
    assert [summary.rows for summary in summaries] == [6, 6]
    assert len(ids(Path(out))) == 6
    assert [path.name for path in Path(out).rglob("*.parquet")] == ["part-run-00000.parquet"]


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_in_the_middle_of_a_shard_hangs_nobody(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words, HEARTBEAT_TIMEOUT_S=20)
    worker = gate.waiter(process)
    # What the kernel does in a container that is full, where it kills nobody: it gives no more.
    limit = worker.memory_info().vms
    worker.rlimit(psutil.RLIMIT_AS, (limit, limit))
    began = time.monotonic()
    # The gate stays shut until then: what it has already might do for the rest of its rows.
    worker.wait(PATIENCE)
    gate.open.set()
    assert launcher.ended(process) == 1
    assert time.monotonic() - began < PATIENCE
    assert launcher.said().count("stopped: ") == 1 and "no memory left" in launcher.said()
    while (status := launcher.run(*words, "--retry-errors")) == BUSY:
        assert time.monotonic() - began < PATIENCE
    assert status == 0
    assert all_done(out)
