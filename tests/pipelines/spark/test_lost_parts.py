"""Parts of a real cluster are killed while a job runs: each request has one row at the end, and nothing is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest
from support.data.outputs import kept_by_run
from support.running.output_ids import ids
from support.spark.cluster import PATIENCE, Cluster, until
from support.spark.held import DRIVER, Held, asked, held

from moondream_beam import Caption
from moondream_beam.pipelines.spark import annotate, annotate_on_spark

pytestmark = [pytest.mark.slow, pytest.mark.spark]
REQUESTS, BROKEN = 2000, 2
Kill = Callable[[psutil.Process], None]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Make the folder in which annotators note what they are asked."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def run_and_kill(notes: Path, job: Callable[[], None], kill: Kill, is_begun: Callable[[], bool] = lambda: True) -> None:
    """Run a job, and call ``kill`` with a Python worker that is in the middle of a task. Then let others go on."""
    thread = threading.Thread(target=job)
    thread.start()
    (number, *_) = until(lambda: len(held(notes)) == 2 and is_begun() and held(notes))
    worker = psutil.Process(number)
    kill(worker)
    # An executor ends a moment after its worker of the cluster. Until then its Python worker would go on, too.
    worker.wait(PATIENCE)
    (notes / "go").touch()
    thread.join()


def annotate_and_kill(spark: Any, pictures: Path, notes: Path, kill: Kill) -> None:
    """Run the resumable job, kill a part of the cluster once a checkpoint has 40 answers, and check the output."""
    out, records = notes.parent / "out", []

    def job() -> None:
        options = {"shard_size": 200, "checkpoint_s": 0.2}
        annotator = Held(folder=str(notes), hold_after=20)
        records.append(annotate_on_spark(spark, str(pictures), [Caption()], annotator, str(out), **options))

    run_and_kill(notes, job, kill, lambda: sum(kept_by_run(str(out)).values()) >= 40)
    (record,) = records
    check(record, notes)


def check(record: dict[str, Any], notes: Path) -> None:
    """Check that each request has one row, and that only those in flight were asked twice."""
    out = notes.parent / "out"
    assert record["balanced"] is True and len(ids(out)) == REQUESTS
    assert ds.dataset(out / "errors", format="parquet").count_rows() == BROKEN
    # What a checkpoint had was not asked again. A batch of Echo is in flight when the worker dies.
    assert REQUESTS - BROKEN <= len(asked(notes)) <= REQUESTS - BROKEN + 3 * Held.batch_size
    assert not (out / "_temporary").exists()


def executor_of(worker: psutil.Process) -> psutil.Process:
    """Return the Java process of the executor that a Python worker belongs to."""
    return next(parent for parent in worker.parents() if parent.name() == "java")


@pytest.fixture
def kill_node(cluster: Cluster) -> Any:
    """Return a function that kills the worker of the cluster above a Python worker. Another one starts at the end."""

    def kill(worker: psutil.Process) -> None:
        above = executor_of(worker).parents()
        (node,) = (process for process in cluster.workers if process in above)
        node.send_signal(signal.SIGKILL)
        node.wait()
        cluster.workers.remove(node)

    yield kill
    cluster.add_worker()


def test_a_killed_python_worker(spark, many_pictures, notes):
    annotate_and_kill(spark, many_pictures, notes, psutil.Process.kill)


def test_a_killed_executor(spark, many_pictures, notes):
    annotate_and_kill(spark, many_pictures, notes, lambda worker: executor_of(worker).kill())


def test_a_killed_worker_of_the_cluster(spark, many_pictures, notes, kill_node):
    annotate_and_kill(spark, many_pictures, notes, kill_node)


def test_a_killed_driver(cluster: Cluster, many_pictures: Path, notes: Path):
    out = notes.parent / "out"
    order = {
        "master": cluster.url,
        "configuration": cluster.configuration,
        "annotator": {"folder": str(notes), "hold_after": 20},
        "paths": [str(many_pictures), str(out)],
        "options": {"shard_size": 200, "checkpoint_s": 0.2},
    }
    command = [sys.executable, DRIVER, json.dumps(order)]
    driver = subprocess.Popen(command, env=cluster.environment)
    until(lambda: len(held(notes)) == 2 and sum(kept_by_run(str(out)).values()) >= 40)
    workers = [psutil.Process(number) for number in held(notes)]
    driver.kill()
    driver.wait()
    for worker in workers:
        worker.wait(PATIENCE)
    (notes / "go").touch()
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), notes)


def test_a_stage_of_the_transform_that_is_tried_again(spark, many_pictures, notes, kill_node, tmp_path):
    context, out = spark.sparkContext, str(tmp_path / "out")
    paths = spark.createDataFrame([(str(path),) for path in sorted(many_pictures.iterdir())], "path string")

    def job() -> None:
        context.setJobGroup("stages", "a stage is tried again")
        rows = annotate(paths.repartition(8), [Caption()], Held(folder=str(notes), hold_after=20), path_column="path")
        rows.write.parquet(out)

    # The files of the shuffle are lost with the worker. So the stage that wrote them is tried again.
    run_and_kill(notes, job, kill_node)
    tracker = context.statusTracker()
    stages = {stage for job in tracker.getJobIdsForGroup("stages") for stage in tracker.getJobInfo(job).stageIds}
    assert any(info.currentAttemptId for info in map(tracker.getStageInfo, stages) if info)
    rows = spark.read.parquet(out).select("id", "kind").collect()
    assert len(rows) == len({row.id for row in rows}) == REQUESTS
    assert sum(row.kind == "errors" for row in rows) == BROKEN
