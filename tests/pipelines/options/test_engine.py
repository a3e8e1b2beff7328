"""``--engine`` and ``--master``: what fits neither is refused in one line, before any work."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--master", "local[2]"), ("--master local[2]", "--engine spark")),
        (("--engine", "spark", "--runner", "DataflowRunner"), ("--runner DataflowRunner", "--engine spark")),
        (("--engine", "spark", "--workers", 2), ("--workers 2", "--engine spark")),
        (("--engine", "spark", "--backend", "fal", "--max-cost", 2), ("--max-cost", "--engine spark")),
        (("--engine", "spark", "--gpu", "nvidia-l4"), ("--gpu", "spark.executor.resource.gpu.amount")),
        (("--engine", "spark", "--worker-memory", "16GB"), ("--worker-memory", "spark.executor.memory")),
        (("--engine", "spark", "--dry_run=True"), ("--dry_run", "Spark", "leave it out")),
        (("--engine", "spark", "--job_endpoint=localhost:1"), ("--job_endpoint", "Spark")),
        (("--engine", "flink"), ("--engine", "spark")),
    ],
)
def test_an_option_that_does_not_fit_the_engine_is_refused(pictures, tmp_path, command, words, named):
    status, _, stderr = command("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", *words)
    assert status == 2 and stderr.count("\n") == 1
    assert all(name in stderr for name in named)
    assert not (tmp_path / "out").exists()


def test_without_pyspark_the_cure_is_named(pictures, tmp_path, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--engine", "spark")
    status, _, stderr = command(*words)
    assert status == 2
    assert "pip install 'moondream-beam[spark]'" in stderr
