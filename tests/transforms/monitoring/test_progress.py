"""The progress files of a run: a plan that is recorded once and sums of shards, until the record replaces them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring import progress
from moondream_beam.transforms.monitoring.heartbeat import PIPE, Heartbeat
from moondream_beam.transforms.monitoring.progress import ProgressFiles, counts_of
from moondream_beam.transforms.monitoring.progress_reporter import NAMESPACE, ProgressReporter
from moondream_beam.transforms.output.run_record import write_record

PLAN = Count(pictures=50, pending=200, done=3, retried=2)
DONE = Summary(annotations=90, failures=10, output_tokens=500, usd=0.5)


@pytest.fixture
def files(tmp_path: Path) -> ProgressFiles:
    return ProgressFiles(str(tmp_path), "one")


def end(output: Path) -> None:
    """Write the record of a run that has ended."""
    counts = {**PLAN._asdict(), "annotations": DONE.annotations, "failures": DONE.failures}
    totals = {name: getattr(DONE, name) for name in Summary._fields[2:]}
    write_record(str(output), "one", {"run": "one", "counts": counts, "totals": totals})


def test_the_first_plan_stays(files: ProgressFiles) -> None:
    assert files.read_plan() is None and files.read() == (None, Summary())
    assert files.record_plan(PLAN) == PLAN
    assert files.record_plan(Count(pictures=51, pending=204)) == PLAN == files.read_plan()


def test_the_sums_of_all_shards_are_added_up(files: ProgressFiles, tmp_path: Path) -> None:
    files.record_plan(PLAN)
    assert files.report(0, Summary(annotations=4, failures=1))
    assert ProgressFiles(str(tmp_path), "one").report(1, Summary(annotations=5))
    assert files.read() == (PLAN, Summary(annotations=9, failures=1))


def test_reports_are_written_at_intervals_and_the_last_one_always(
    files: ProgressFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REPORT_INTERVAL_S", 3600)
    assert files.report(0, Summary(annotations=1))
    assert not files.report(0, Summary(annotations=2))
    assert files.read()[1].annotations == 1
    assert files.report(0, Summary(annotations=3), last=True)
    assert files.read()[1].annotations == 3


def test_a_run_that_has_ended_is_read_from_its_record(files: ProgressFiles, tmp_path: Path) -> None:
    files.record_plan(PLAN)
    files.report(0, Summary(annotations=4))
    end(tmp_path)
    files.remove()
    assert files.read() == (PLAN, DONE)
    assert files.read_plan() is None
    assert not (tmp_path / "_temporary").exists()


def test_removal_leaves_the_files_of_other_runs(files: ProgressFiles, tmp_path: Path) -> None:
    other = ProgressFiles(str(tmp_path), "one.two")
    for each in (files, other):
        each.record_plan(PLAN)
        each.report(0, Summary(annotations=4))
    files.remove()
    files.remove()
    assert files.read() == (None, Summary())
    assert other.read() == (PLAN, Summary(annotations=4))


def test_a_reader_does_not_mind_that_the_run_ends_meanwhile(files: ProgressFiles, tmp_path: Path) -> None:
    found, over = set(), threading.Event()
    end(tmp_path)

    def read() -> None:
        while not over.is_set():
            planned, done = files.read()
            found.add((planned, done.annotations))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(30):
            files.record_plan(PLAN)
            for shard in range(5):
                files.report(shard, Summary(annotations=1), last=True)
            files.remove()
    finally:
        over.set()
        thread.join()
    assert found <= {(PLAN, rows) for rows in (0, 1, 2, 3, 4, 5, 90)}


def test_while_the_files_are_deleted_the_record_is_read(
    files: ProgressFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.record_plan(PLAN)
    files.report(0, Summary(annotations=4))
    end(tmp_path)
    found = []
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: found.append(files.read()))
    files.remove()
    assert found == [(PLAN, DONE)]


def test_a_record_without_totals_counts_as_zero() -> None:
    assert counts_of({"counts": {"pending": 7, "annotations": 6}}) == (Count(pending=7), Summary(annotations=6))


def test_a_bucket_has_a_plan_and_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_local", lambda output: False)
    files = ProgressFiles(str(tmp_path), "one")
    files.record_plan(PLAN)
    assert files.report(0, Summary(annotations=4), last=True)
    assert [path.name for path in (tmp_path / "_temporary").iterdir()] == ["one.plan"]
    assert files.read() == (None, Summary()) and files.read_plan() == PLAN


def test_the_file_of_a_shard_is_json(files: ProgressFiles, tmp_path: Path) -> None:
    files.report(7, DONE, in_flight=3)
    (path,) = (tmp_path / "_temporary" / "one.progress").iterdir()
    assert (path.name, json.loads(path.read_text())) == ("7.sums", [list(DONE), 3])
    assert files.read_shards()[1] == 3
    shutil.rmtree(tmp_path / "_temporary")
    assert files.report(7, DONE, last=True) and path.exists(), "the folder is made again"


def test_progress_files_and_heartbeat_get_each_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    monkeypatch.setenv(PIPE, str(writes))
    monkeypatch.setattr(progress, "REPORT_INTERVAL_S", 3600)
    ProgressFiles(str(tmp_path), "one").report(3, Summary(annotations=7))
    reporter = ProgressReporter(str(tmp_path), "one", Heartbeat())
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
        reporter = ProgressReporter(str(tmp_path), "one", Heartbeat())
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
    reporter = ProgressReporter(str(tmp_path), "one", Heartbeat())
    assert reporter.run_summary() == Summary()
    reporter.report(4, Summary(annotations=2, failures=1))
    assert reporter.run_summary() == Summary(annotations=2, failures=1)
