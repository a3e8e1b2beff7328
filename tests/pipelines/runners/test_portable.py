"""The command with portable runners: Beam's job service, and Flink and Spark if the jars of their servers exist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow
RUNNERS = {
    "FLINK_JOB_SERVER_JAR": ("--runner", "FlinkRunner", "--flink_master=[local]", "--parallelism=2"),
    "SPARK_JOB_SERVER_JAR": ("--runner", "SparkRunner", "--spark_master_url=local[2]"),
}


def annotate(pictures: Path, out: Path, *options: str) -> list[str]:
    """Annotate the five pictures, and return the ids of all rows."""
    command = [sys.executable, "-m", "moondream_beam.pipelines.cli", "annotate", str(pictures), "--model", "tiny"]
    command += ["--output", str(out), "--max-failure-rate", "1", "--no-report", *options]
    # A separate process, because the runner resolves host names, which the tests block in this process.
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
    assert not (out / "_temporary").exists()
    paths = [*out.glob("data/*.parquet"), *out.glob("errors/*.parquet")]
    return [name for path in paths for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]


@pytest.mark.jobserver
@pytest.mark.parametrize("variable", RUNNERS)
def test_the_command_runs_on(variable, pictures, tmp_path):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no jar")
    assert shutil.which("java"), "the job server needs Java"
    option = f"--{variable.lower()}={os.environ[variable]}"
    rows = annotate(pictures, tmp_path / "out", *RUNNERS[variable], option)
    assert len(rows) == len(set(rows)) == 5


def test_the_command_runs_through_a_job_service_with_workers_in_this_process(pictures, tmp_path):
    service = ("--runner", "PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    rows = annotate(pictures, tmp_path / "out", *service)
    assert len(rows) == len(set(rows)) == 5
    assert sorted(annotate(pictures, tmp_path / "out", *service)) == sorted(rows)


def test_the_command_runs_through_a_job_service_with_workers_of_a_pool(pictures, tmp_path, pool):
    address, process = pool
    service = ("--runner", "PortableRunner", "--job_endpoint=embed")
    workers = ("--environment_type=EXTERNAL", f"--environment_config={address}")
    rows = annotate(pictures, tmp_path / "out", *service, *workers)
    assert len(rows) == len(set(rows)) == 5
    assert process.children(), "nobody asked the pool for a worker"
