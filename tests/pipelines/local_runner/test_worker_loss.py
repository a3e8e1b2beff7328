"""Worker processes that die or hang in the middle of a shard, and a shard that two workers attempt at once."""

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
from support.running.drill import QUERIES, draw_pictures
from support.running.gate import Gate, gate
from support.running.launcher import PATIENCE, Launcher
from support.running.output_ids import ids

from moondream_beam.models.tasks import Caption
from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.transforms.annotation.job import AnnotateShard
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.monitoring.status import OutputStatus
from moondream_beam.transforms.output.locks.lock import run_lock

PICTURES, BUSY = 60, 2


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[Gate, tuple[Any, ...]]]:
    """Yield a gate, and the arguments to annotate 60 pictures with 2 workers. Half of the pictures wait at it."""
    with gate(tmp_path / "photos", PICTURES, PICTURES // 2) as (made, manifest):
        options = ("--model", "tiny", "--caption", "short", "--shard-size", 4, "--workers", 2, "--no-report")
        inputs = ("--manifest", manifest, "--allow-private-addresses")
        yield made, ("annotate", *inputs, "--output", tmp_path / "out", *options)


def all_done(out: Path) -> bool:
    """Return whether the output has all rows and no temporary file."""
    return len(ids(out)) == PICTURES and not (out / "_temporary").exists()


@pytest.mark.slow
def test_a_worker_that_resumes_after_the_death_of_its_command_writes_no_row_twice(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words)
    worker = gate.waiter(process)
    worker.suspend()
    os.kill(process, signal.SIGKILL)
    launcher.ended(process)
    gate.open.set()
    assert len(ids(out)) < PICTURES
    # The suspended worker is in the middle of a shard, and its lock holds while it lives.
    assert launcher.run(*words) == BUSY
    worker.resume()
    end = time.monotonic() + PATIENCE
    while (status := launcher.run(*words)) == BUSY:
        assert time.monotonic() < end
    assert status == 0
    worker.wait(PATIENCE)
    assert all_done(out)


@pytest.mark.slow
def test_a_killed_worker_ends_the_command_with_one_line(tmp_path, gated, launcher: Launcher):
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
def test_workers_whose_command_is_killed_keep_their_answers_and_end_with_one_line_each(tmp_path, launcher: Launcher):
    photos, out = draw_pictures(tmp_path / "photos", 20, broken=0), tmp_path / "out"
    words = ("annotate", photos, "--output", out, "--no-report", "--checkpoint-every", PATIENCE, *QUERIES)
    process = launcher.start(*words, "--workers", 2, rate=60, batch=4)
    launcher.until_asked(100)
    workers = psutil.Process(process).children()
    os.kill(process, signal.SIGKILL)
    launcher.ended(process)
    # gRPC alone would notice after minutes.
    assert psutil.wait_procs(workers, PATIENCE)[1] == []
    lines = [line for line in launcher.said().splitlines()[1:] if " requests, " not in line]
    assert sorted(line.split()[0] for line in lines) == ["worker_0", "worker_1"]
    assert all("the command that started it is gone" in line for line in lines)
    (run,) = OutputStatus(str(out)).poll()
    # On a slow machine, two batches of each worker may have been asked and not yet answered.
    assert run.state == "stopped" and len(launcher.asked()) - 2 * 2 * 4 <= run.rows <= len(launcher.asked())


@pytest.mark.slow
def test_a_worker_without_heartbeats_is_killed_and_reported(tmp_path, gated, launcher: Launcher):
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
def test_a_worker_with_heartbeats_but_without_rows_is_killed_and_reported(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words, FIRST_ROW_TIMEOUT_S=6, ROW_TIMEOUT_S=6, SHUTDOWN_TIMEOUT_S=2)
    # The gate stays closed.
    assert launcher.ended(process) == 1
    assert "produced no row for 6 s in shard" in launcher.said()
    gate.open.set()
    assert launcher.run(*words) == 0
    assert all_done(out)


@pytest.mark.slow
def test_a_command_that_is_suspended_with_its_workers_continues(tmp_path, gated, launcher: Launcher):
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
        """An annotator that ends both attempts at about the same time."""

        def answer(self, requests):
            yield from super().answer(requests)
            together.wait(10)

    def attempt(_: int) -> list[Any]:
        step = AnnotateShard(Job((Caption(),), Waiting(), run="run"), out)
        return list(step.process((0, refs), Count(6, 6)))

    with run_lock(out, "run"), ThreadPoolExecutor(2) as pool:
        summaries = [summary for summaries in pool.map(attempt, range(2)) for summary in summaries]
    assert [summary.rows for summary in summaries] == [6, 6]
    assert len(ids(Path(out))) == 6
    assert [path.name for path in Path(out).rglob("*.parquet")] == ["part-run-00000.parquet"]


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_ends_the_command(tmp_path, gated, launcher: Launcher):
    (gate, words), out = gated, tmp_path / "out"
    process = launcher.start(*words, HEARTBEAT_TIMEOUT_S=20)
    worker = gate.waiter(process)
    # Allocations fail from now on, as in a full container whose kernel kills no process.
    # Below what it has, because memory that it frees would allow another allocation.
    limit = worker.memory_info().vms // 2
    worker.rlimit(psutil.RLIMIT_AS, (limit, limit))
    began = time.monotonic()
    # The gate stays closed until then: with the memory that it has, the worker could finish its rows.
    worker.wait(PATIENCE)
    gate.open.set()
    assert launcher.ended(process) == 1
    assert time.monotonic() - began < PATIENCE
    assert launcher.said().count("stopped: ") == 1 and "no memory left" in launcher.said()
    while (status := launcher.run(*words, "--retry-errors")) == BUSY:
        assert time.monotonic() - began < PATIENCE
    assert status == 0
    assert all_done(out)
