"""The status of runs is found from the files in their output."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.data.rows import NOW, annotation, failure
from support.data.small_outputs import publish

from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring import status
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.monitoring.status import OutputStatus
from moondream_beam.transforms.output.answer_journal import AnswerJournal
from moondream_beam.transforms.output.locks.lock import acquire, active_runs, run_lock
from moondream_beam.transforms.output.run_record import write_record
from moondream_beam.transforms.output.writer import ShardWriter

RUN = "20300102T030400-abcd"


@pytest.fixture
def out(tmp_path):
    """Return an output with three shards of a run: five rows in twelve seconds, one of them a failure."""
    for shard in (0, 1):
        rows = [annotation(id=f"{shard}{i}", created_at=NOW + timedelta(seconds=6 * shard + 3 * i)) for i in (0, 1)]
        publish(tmp_path, *rows, run=RUN, shard=shard)
    return publish(tmp_path, failure(created_at=NOW + timedelta(seconds=12)), run=RUN, shard=2)


def keep(out, count):
    """Leave rows in the journal of answers, as a run that is killed leaves them."""
    journal = AnswerJournal(ShardWriter(str(out), RUN, 9), str(out), RUN, 9, 60.0)
    for index in range(count):
        journal.writer.add(annotation(id=f"kept{index}"))
    journal.flush()


def test_an_active_run_has_a_plan_a_rate_and_the_seconds_left(out):
    with run_lock(str(out), RUN):
        ProgressFiles(str(out), RUN).record_plan(Count(pictures=10, pending=20))
        (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.annotations, run.failures, run.planned.pending) == ("running", 4, 1, 20)
    # The name of the run says that it began at 03:04:00.
    now = datetime(2030, 1, 2, 3, 4, 10, tzinfo=timezone.utc)
    assert run.rate(now) == 0.5 and run.seconds_left(now) == 30


def test_of_a_running_run_rows_that_are_not_published_and_requests_in_flight_are_known(out):
    with run_lock(str(out), RUN):
        ProgressFiles(str(out), RUN).report(0, Summary(annotations=7, failures=2), in_flight=16, last=True)
        keep(out, 3)
        (run,) = OutputStatus(str(out)).poll()
    assert (run.annotations, run.failures, run.rows, run.kept, run.in_flight) == (4, 1, 9, 3, 16)


def test_of_a_run_that_was_killed_the_kept_rows_are_counted_and_those_that_are_lost_are_not(out):
    ProgressFiles(str(out), RUN).report(0, Summary(annotations=7, failures=2), in_flight=16, last=True)
    keep(out, 3)
    (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.annotations, run.failures, run.rows, run.kept, run.in_flight) == ("stopped", 4, 1, 8, 3, 0)


def test_rows_of_a_shard_whose_journal_is_not_deleted_yet_count_once(out):
    keep(out, 3)
    publish(out, *(annotation(id=f"kept{index}") for index in range(3)), run=RUN, shard=9)
    (run,) = OutputStatus(str(out)).poll()
    assert (run.annotations, run.kept, run.rows) == (7, 0, 8)


def test_a_run_that_has_kept_rows_only_is_listed(tmp_path):
    keep(tmp_path, 2)
    (run,) = OutputStatus(str(tmp_path)).poll()
    assert (run.run, run.state, run.rows, run.kept) == (RUN, "stopped", 2, 2)


def test_a_run_that_a_signal_ended_is_interrupted(out):
    write_record(str(out), RUN, {"run": RUN, "counts": {"pending": 9}, "interrupted": "SIGINT", "left": 4})
    (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.rows, run.planned.pending) == ("interrupted", 5, 9)


def test_a_run_that_was_killed_before_its_first_row_is_listed_by_its_lock_file(tmp_path):
    acquire(str(tmp_path), RUN)
    (run,) = OutputStatus(str(tmp_path)).poll()
    assert (run.run, run.state, run.rows, run.planned) == (RUN, "stopped", 0, None)


@pytest.mark.parametrize(
    ("first", "later", "was_resumed"),
    [
        ("1", "2", True),
        ("1", None, False),
        ("1-0of2", "2-0of2", True),
        ("1-0of2", "2", True),
        ("1-0of2", "2-1of2", False),
        ("1", "2-1of2", False),
    ],
)
def test_a_run_was_resumed_by_a_later_one_of_the_same_slice_or_of_all(tmp_path, first, later, was_resumed):
    for run in filter(None, (first, later)):
        publish(tmp_path, annotation(id=run, run=run), run=run)
    runs = OutputStatus(str(tmp_path)).poll()
    assert [run.was_resumed for run in runs] == [was_resumed, *([False] if later else [])]


@pytest.mark.parametrize(
    ("change", "was_resumed"),
    [({}, True), ({"tasks": ["other"]}, False), ({"options": {"inputs": ["b"]}}, False), ({"model": "other"}, True)],
)
def test_a_later_run_of_another_job_resumes_nothing(tmp_path, change, was_resumed):
    record = {"counts": {}, "tasks": ["one"], "options": {"inputs": ["a"], "manifest": None}}
    write_record(str(tmp_path), "1", {"run": "1", "interrupted": "SIGINT", **record})
    write_record(str(tmp_path), "2", {"run": "2", **record, **change})
    assert [run.was_resumed for run in OutputStatus(str(tmp_path)).poll()] == [was_resumed, False]


def test_the_progress_files_of_a_running_run_are_read_once_a_poll(out, monkeypatch):
    read = []
    load = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or load(path))
    with run_lock(str(out), RUN):
        ProgressFiles(str(out), RUN).report(0, Summary(annotations=7), in_flight=16, last=True)
        OutputStatus(str(out)).poll()
    assert read == ["0.sums"]


def test_a_run_that_was_killed_has_stopped_at_its_last_row(out):
    (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.rows, run.planned, run.last) == ("stopped", 5, None, NOW + timedelta(seconds=12))
    # By its name the run began at 03:04:00, and the first row came 5.678 seconds later.
    assert run.rate(NOW) == 5 / (12 + 5.678)


def test_a_run_that_has_ended_has_the_plan_and_the_time_of_its_record(out):
    counts = {"pictures": 3, "pending": 5, "done": 0, "annotations": 4, "failures": 1}
    write_record(str(out), RUN, {"run": RUN, "counts": counts, "wall_seconds": 2.0})
    (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.planned, run.rate(NOW)) == ("ended", Count(3, 5), 2.5)


def test_a_footer_is_read_once(out, monkeypatch):
    output = OutputStatus(str(out))
    output.poll()
    publish(out, annotation(id="new"), run=RUN, shard=3)
    read = []
    read_footer = status.read_footer
    monkeypatch.setattr(status, "read_footer", lambda path: read.append(path) or read_footer(path))
    assert output.poll()[0].annotations == 5
    assert [path.rsplit("-", 1)[1] for path in read] == ["00003.parquet"]


def test_a_deleted_file_is_not_counted(out):
    output = OutputStatus(str(out))
    output.poll()
    next(out.glob("errors/part-2*.parquet")).unlink()
    assert output.poll()[0].failures == 0


def test_a_file_of_which_rows_were_removed_is_read_again(out):
    output = OutputStatus(str(out))
    output.poll()
    (path,) = out.glob("data/part-*-00001.parquet")
    table = pq.read_table(path)
    # As a run replaces a file, at the same path.
    pq.write_table(table.slice(1), path.with_name("draft"))
    path.with_name("draft").rename(path)
    assert output.poll()[0].annotations == 3


def test_a_run_is_active_while_it_holds_its_lock(tmp_path):
    with run_lock(str(tmp_path), "one"):
        assert active_runs(str(tmp_path)) == ["one"]
    assert active_runs(str(tmp_path)) == []


def test_polling_writes_nothing(out):
    before = sorted(out.rglob("*"))
    OutputStatus(str(out)).poll()
    assert sorted(out.rglob("*")) == before
