"""Parts of a real cluster are killed while a job runs: each request has one row at the end, and nothing is left."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.running.output_ids import ids
from support.spark.cluster import Cluster, until
from support.spark.held import Held, asked, held

from moondream_beam import Caption
from moondream_beam.pipelines.spark import annotate_on_spark
from moondream_beam.transforms.output.answer_journal import kept_by_run

pytestmark = [pytest.mark.slow, pytest.mark.spark]
REQUESTS, SHARD_SIZE = 200, 50


def run_and_kill(spark: Any, pictures: Path, tmp_path: Path, kill: Callable[[psutil.Process], None]) -> dict[str, Any]:
    """Run a job, and call ``kill`` with a Python worker that is in the middle of a shard. Return the record."""
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    annotator = Held(folder=str(notes), hold_after=20)
    records: list[dict[str, Any]] = []

    def job() -> None:
        options = {"shard_size": SHARD_SIZE, "checkpoint_s": 0.2}
        records.append(annotate_on_spark(spark, str(pictures), [Caption()], annotator, str(out), **options))

    thread = threading.Thread(target=job)
    thread.start()
    # A checkpoint has the answers of the worker by then.
    (worker, *_) = until(lambda: len(held(notes)) == 2 and sum(kept_by_run(str(out)).values()) >= 40 and held(notes))
    kill(psutil.Process(worker))
    (notes / "go").touch()
    thread.join()
    (record,) = records
    assert record["balanced"] is True and record["counts"]["failures"] == 2
    assert len(ids(out)) == REQUESTS
    # What a checkpoint had was not asked again. A batch of Echo is in flight when the worker dies.
    assert REQUESTS - 2 <= len(asked(notes)) <= REQUESTS - 2 + 3 * Held.batch_size
    assert not (out / "_temporary").exists()
    return record


def executor_of(worker: psutil.Process) -> psutil.Process:
    """Return the Java process of the executor that a Python worker belongs to."""
    return next(parent for parent in worker.parents() if parent.name() == "java")


def test_a_killed_python_worker(spark, pictures, tmp_path):
    run_and_kill(spark, pictures, tmp_path, psutil.Process.kill)


def test_a_killed_executor(spark, pictures, tmp_path):
    run_and_kill(spark, pictures, tmp_path, lambda worker: executor_of(worker).kill())


def test_a_killed_worker_of_the_cluster(cluster: Cluster, spark, pictures, tmp_path):
    def kill(worker: psutil.Process) -> None:
        above = executor_of(worker).parents()
        (node,) = (process for process in cluster.workers if process in above)
        node.send_signal(signal.SIGKILL)
        node.wait()
        cluster.workers.remove(node)

    run_and_kill(spark, pictures, tmp_path, kill)
    cluster.add_worker()
