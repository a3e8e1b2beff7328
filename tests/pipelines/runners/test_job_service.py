"""Where the work of a job is done, and job services that are missing."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam.pipelines.local_runner.portable.job_service import works_here


@pytest.mark.parametrize(
    "runner, options, expected",
    [
        ("local", (), True),
        ("PrismRunner", (), True),
        ("prism", (), True),
        ("apache_beam.runners.portability.prism_runner.PrismRunner", (), True),
        ("PrismRunner", ("--environment_type=EXTERNAL", "--environment_config=localhost:50000"), False),
        ("PrismRunner", ("--environment_type=DOCKER",), False),
        ("PrismRunner", ("--experiments=use_loopback_process_worker",), False),
        ("PortableRunner", ("--job_endpoint=embed",), False),
        ("PortableRunner", ("--job_endpoint=embed", "--environment_type=LOOPBACK"), True),
        ("DataflowRunner", (), False),
        ("FlinkRunner", ("--flink_master=host:8081", "--environment_type=loopback"), True),
        ("FlinkRunner", ("--flink_master=[local]",), True),
        ("FlinkRunner", ("--flink_master=host:8081",), False),
        ("FlinkRunner", ("--environment_type=DOCKER",), False),
        ("SparkRunner", ("--spark_master_url=local[2]",), True),
        ("SparkRunner", ("--spark_master_url=spark://host:7077",), False),
    ],
)
def test_work_is_done_in_this_process_on_the_local_runner_and_in_loopback_environments(runner, options, expected):
    assert works_here(runner, PipelineOptions(list(options))) is expected


def test_a_portable_runner_without_a_job_service_is_refused_in_one_line(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", "PortableRunner")
    status, _, stderr = command(*words)
    assert status == 2 and stderr.count("\n") == 1 and "give --job_endpoint=HOST:PORT" in stderr
    assert not (tmp_path / "out").exists()
