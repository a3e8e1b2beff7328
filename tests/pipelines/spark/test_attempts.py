"""Several attempts at one shard on a real cluster: speculation, tasks that fail, and drivers that end early."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from support.running.output_ids import ids
from support.spark.cluster import PATIENCE, Cluster, until
from support.spark.held import DRIVER, Held, asked, held

from moondream_beam import Caption
from moondream_beam.pipelines.spark import annotate_on_spark, submit
from moondream_beam.transforms.monitoring.status import OutputStatus
from moondream_beam.transforms.output.run_record import read_records

pytestmark = [pytest.mark.slow, pytest.mark.spark]
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.quantile": "0.5",
    "spark.speculation.multiplier": "1.5",
    "spark.speculation.minTaskRuntime": "1s",
}


def test_the_loser_of_a_speculation_leaves_nothing_behind(cluster: Cluster, many_pictures: Path, tmp_path: Path):
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    order = {
        "master": cluster.url,
        "configuration": {**cluster.configuration, **SPECULATION},
        "annotator": {"folder": str(notes), "hold_after": 10, "once": True},
        "paths": [str(many_pictures), str(out)],
        "options": {"shard_size": 200, "checkpoint_s": 0.2},
    }
    done = subprocess.run(
        [sys.executable, DRIVER, json.dumps(order)], env=cluster.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    # The file "go" was never there: only another attempt can have ended the shard of the process that holds.
    assert len(held(notes)) == 1
    assert record["balanced"] is True and len(ids(out)) == 2000
    assert not (out / "_temporary").exists()


def test_each_task_uses_the_gpu_that_spark_gives_its_executor(cluster: Cluster, pictures: Path, tmp_path: Path):
    gpus = {f"spark.{owner}.resource.gpu.amount": "1" for owner in ("executor", "task")}
    order = {
        "master": cluster.url,
        "configuration": {**cluster.configuration, **gpus},
        "annotator": {"folder": str(tmp_path)},
        "paths": [str(pictures), str(tmp_path / "out")],
        "options": {"shard_size": 50},
    }
    done = subprocess.run(
        [sys.executable, DRIVER, json.dumps(order)], env=cluster.environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and json.loads(done.stdout)["balanced"] is True, done.stderr
    assert "each task waits for an executor with a free GPU" in done.stderr
    # One executor may be quick enough to do all tasks.
    seen = {path.read_text() for path in tmp_path.glob("*.gpus")}
    assert seen and seen <= cluster.gpus


def test_a_task_that_always_fails_is_tried_as_often_as_spark_allows(spark: Any, pictures: Path, tmp_path: Path):
    out, attempts = tmp_path / "out", int(spark.sparkContext.getConf().get("spark.task.maxFailures", "4"))
    dying = Held(folder=str(tmp_path), dies_on=((48, 36),))
    with pytest.raises(Exception, match="echo died"):
        annotate_on_spark(spark, str(pictures / "001.png"), [Caption()], dying, str(out))
    assert len(asked(tmp_path)) == attempts > 1
    assert not list(out.rglob("*.lock")) and not list(out.rglob("*.parquet"))
    record = annotate_on_spark(spark, str(pictures / "001.png"), [Caption()], Held(folder=str(tmp_path)), str(out))
    assert (record["counts"]["annotations"], record["balanced"]) == (1, True)


def test_sigterm_of_a_program_keeps_what_the_tasks_have_answered(cluster: Cluster, many_pictures: Path, tmp_path: Path):
    notes, out = tmp_path / "notes", tmp_path / "out"
    notes.mkdir()
    order = {
        "master": cluster.url,
        "configuration": cluster.configuration,
        "annotator": {"folder": str(notes), "hold_after": 10},
        "paths": [str(many_pictures), str(out)],
        "options": {"shard_size": 200},
    }
    driver = subprocess.Popen([sys.executable, DRIVER, json.dumps(order)], env=cluster.environment)
    until(lambda: len(held(notes)) == 2)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(PATIENCE) != 0
    (record,) = read_records(str(out))
    assert record["interrupted"] == "SIGTERM" and record["left"] == 2000 - len(ids(out))
    assert len(ids(out)) >= 20 and not (out / "_temporary").exists()


def rows_of_run(out: Path) -> int:
    """Return how many rows the run at work in an output has, published or not."""
    return sum(run.rows for run in OutputStatus(str(out)).poll() if run.state == "running")


def start(cluster: Cluster, program: list[Any], *words: Any) -> subprocess.Popen[str]:
    """Start the command with the configuration of the cluster."""
    configuration = [word for name, value in cluster.configuration.items() for word in ("--conf", f"{name}={value}")]
    environment = {**cluster.environment, "PYSPARK_SUBMIT_ARGS": " ".join([*configuration, "pyspark-shell"])}
    command = [*program[:1], *(configuration if program[1:] == [submit.__file__] else []), *program[1:], *words]
    return subprocess.Popen(
        [*map(str, command)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_job_is_resumed_after_an_interrupt(cluster: Cluster, pictures: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = [pictures, "--output", out, "--model", "tiny", "--caption", "short", "--shard-size", 50, "--no-report"]
    # One answer at a time, so that a shard takes seconds on any machine. The first checkpoint is after a minute.
    words += ["--batch-size", 1]
    command = [sys.executable, "-m", "moondream_beam.pipelines.cli", "annotate", "--engine", "spark"]
    first = start(cluster, [*command, "--master", cluster.url], *words)
    until(lambda: rows_of_run(out) >= 10)
    first.send_signal(signal.SIGINT)
    message = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == 130 and "run the same command again to resume" in message, message
    answered = len(ids(out))
    assert 10 <= answered < 200 and not (out / "_temporary").exists()

    program = [cluster.home / "bin" / "spark-submit", submit.__file__]
    # spark-submit needs its own options before the program, and those of the command behind it.
    second = start(cluster, program, "annotate", *words)
    printed, message = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1, message
    assert ": balances" in printed and "2 in errors/" in printed
    assert len(ids(out)) == 200
    assert ds.dataset(out / "errors", format="parquet").count_rows() == 2
    assert not (out / "_temporary").exists()
