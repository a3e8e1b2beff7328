"""Workers of this machine that hang in the middle of a shard, and a shard attempted twice at once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from echo import Echo
from launcher import PATIENCE, Launcher

from moondream_beam.models.tasks import Caption
from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.transforms.job import _AnnotateShard
from moondream_beam.transforms.lease import claimed
from moondream_beam.transforms.records import ImageRef, Job
from moondream_beam.transforms.summary import Count

PICTURES, BUSY = 60, 2


@pytest.fixture
def words(tmp_path: Path) -> tuple[Any, ...]:
    """The command over sixty pictures, in shards of about four, by two processes."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, seed in zip(range(PICTURES), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(photos / f"{index}.png")
    options = ("--model", "tiny", "--caption", "short", "--shard-size", 4, "--workers", 2)
    return ("annotate", photos, "--output", tmp_path / "out", *options)


def ids(out: Path) -> list[str]:
    """The ids of all rows, each of which must be there once."""
    paths = [*out.glob("data/*.parquet"), *out.glob("errors/*.parquet")]
    found = [name for path in paths for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    assert set(Counter(found).values()) <= {1}
    return found


def a_worker_at_work(process: int, out: Path) -> psutil.Process:
    """One of the workers, once something has been published."""
    end = time.monotonic() + PATIENCE
    while not list(out.glob("data/*.parquet")):
        assert time.monotonic() < end
        time.sleep(0.01)
    return psutil.Process(process).children()[-1]


@pytest.mark.slow
def test_a_worker_that_hangs_and_wakes_up_after_its_command_doubles_nothing(tmp_path, words, launcher: Launcher):
    process, out = launcher.start(*words), tmp_path / "out"
    worker = a_worker_at_work(process, out)
    worker.suspend()
    time.sleep(1)
    assert psutil.pid_exists(process)
    os.kill(process, signal.SIGKILL)
    launcher.ended(process)
    before, end = len(ids(out)), time.monotonic() + PATIENCE
    assert before < PICTURES
    # It may be in the middle of a shard, which is its own as long as it lives.
    first = launcher.run(*words)
    worker.resume()
    while first != 0:
        assert first == BUSY and time.monotonic() < end
        first = launcher.run(*words)
    assert len(ids(out)) == PICTURES
    worker.wait(PATIENCE)
    assert len(ids(out)) == PICTURES
    assert not (out / "_temporary").exists()


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

    with claimed(out, "run"), ThreadPoolExecutor(2) as pool:
        summaries = [summary for summaries in pool.map(attempt, range(2)) for summary in summaries]
    assert [summary.rows for summary in summaries] == [6, 6]
    assert len(ids(Path(out))) == 6
    assert [path.name for path in Path(out).rglob("*.parquet")] == ["part-run-00000.parquet"]
