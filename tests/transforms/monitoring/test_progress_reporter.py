"""One report reaches the progress files, the heartbeat and Beam's counters."""

from __future__ import annotations

import json
import os
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from moondream_beam.transforms.core.summary import Summary
from moondream_beam.transforms.monitoring import progress
from moondream_beam.transforms.monitoring.heartbeat import PIPE, Pulse
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.monitoring.progress_reporter import NAMESPACE, ProgressReporter


def test_files_and_heartbeat_get_each_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    monkeypatch.setenv(PIPE, str(writes))
    monkeypatch.setattr(progress, "REPORT_INTERVAL_S", 3600)
    ProgressFiles(str(tmp_path), "one").report(3, Summary(annotations=7))
    reporter = ProgressReporter(str(tmp_path), "one", Pulse())
    assert reporter.report(4, Summary(annotations=2, failures=1))
    assert not reporter.report(4, Summary(annotations=3, failures=1))
    assert reporter.run_summary() == Summary(annotations=9, failures=1)
    assert reporter.report(4, Summary(annotations=4, failures=1), published=True)
    assert reporter.run_summary() == Summary(annotations=11, failures=1)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        assert [json.loads(line) for line in pipe] == [[4, 3], [4, 4], [4, 5]]


def test_beams_counters_grow_by_published_shards_only(tmp_path: Path) -> None:
    def work(shard: int) -> None:
        reporter = ProgressReporter(str(tmp_path), "one", Pulse())
        reporter.report(shard, Summary(annotations=1, output_tokens=5))
        reporter.report(shard, Summary(annotations=2, failures=1, output_tokens=10), published=True)

    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | beam.Create([0, 1]) | beam.Map(work)
    counters = pipeline.run().metrics().query()["counters"]
    assert {each.key.metric.name: each.committed for each in counters if each.key.metric.namespace == NAMESPACE} == {
        "annotations": 4,
        "failures": 2,
        "output_tokens": 20,
    }


def test_of_a_run_into_a_bucket_a_worker_knows_its_own_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_local", lambda output: False)
    reporter = ProgressReporter(str(tmp_path), "one", Pulse())
    assert reporter.run_summary() == Summary()
    reporter.report(4, Summary(annotations=2, failures=1))
    assert reporter.run_summary() == Summary(annotations=2, failures=1)
