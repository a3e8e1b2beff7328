"""The command on Flink and Spark, where the jars of Beam's job servers are at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.jobserver]
RUNNERS = {
    "FLINK_JOB_SERVER_JAR": ("--runner", "FlinkRunner", "--flink_master=[local]", "--parallelism=2"),
    "SPARK_JOB_SERVER_JAR": ("--runner", "SparkRunner", "--spark_master_url=local[2]"),
}


@pytest.mark.parametrize("variable", RUNNERS)
def test_the_command_runs_there(variable, pictures, tmp_path):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no jar")
    assert shutil.which("java"), "the job server needs Java"
    option = f"--{variable.lower()}={os.environ[variable]}"
    command = [sys.executable, "-m", "moondream_beam.pipelines.cli", "annotate", str(pictures), "--model", "tiny"]
    command += ["--output", str(tmp_path / "out"), "--max-failure-rate", "1", *RUNNERS[variable], option]
    # In a process of its own: it looks up names, which the wall around the network of these tests forbids.
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
    paths = [*Path(tmp_path, "out").glob("data/*.parquet"), *Path(tmp_path, "out").glob("errors/*.parquet")]
    rows = [name for path in paths for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    assert len(rows) == len(set(rows)) == 5
