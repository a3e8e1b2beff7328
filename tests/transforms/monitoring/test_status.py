"""How far runs are, from what lies in their output."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from support.data.rows import NOW, annotation, failure
from support.data.small_outputs import publish

from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring import status
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.monitoring.status import OutputStatus
from moondream_beam.transforms.output.lock import active_runs, run_lock
from moondream_beam.transforms.output.run_record import write_record

RUN = "20300102T030400-abcd"


@pytest.fixture
def out(tmp_path):
    """Two shards of a run: five rows in twelve seconds, one of them a failure."""
    for shard in (0, 1):
        rows = [annotation(id=f"{shard}{i}", created_at=NOW + timedelta(seconds=6 * shard + 3 * i)) for i in (0, 1)]
        publish(tmp_path, *rows, run=RUN, shard=shard)
    return publish(tmp_path, failure(created_at=NOW + timedelta(seconds=12)), run=RUN, shard=2)


def test_a_run_that_is_active_runs_tells_how_much_is_left(out):
    with run_lock(str(out), RUN):
        ProgressFiles(str(out), RUN).record_plan(Count(pictures=10, pending=20))
        (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.annotations, run.failures, run.planned.pending) == ("running", 4, 1, 20)
    # Planned at 03:04:00, as its name tells.
    now = datetime(2030, 1, 2, 3, 4, 10, tzinfo=timezone.utc)
    assert run.rate(now) == 0.5 and run.seconds_left(now) == 30


def test_notes_tell_more_than_what_is_published(out):
    notes = ProgressFiles(str(out), RUN)
    notes.report(0, Summary(annotations=7, failures=2), last=True)
    (run,) = OutputStatus(str(out)).poll()
    assert (run.annotations, run.failures) == (7, 2)


def test_a_run_that_was_killed_is_told_with_its_last_row(out):
    (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.rows, run.planned, run.last) == ("stopped", 5, None, NOW + timedelta(seconds=12))
    assert run.rate(NOW) == 5 / 12


def test_a_run_that_has_ended_is_told_from_its_record(out):
    counts = {"pictures": 3, "pending": 5, "done": 0, "annotations": 4, "failures": 1}
    write_record(str(out), RUN, {"run": RUN, "counts": counts, "wall_seconds": 2.0})
    (run,) = OutputStatus(str(out)).poll()
    assert (run.state, run.planned, run.rate(NOW)) == ("ended", Count(3, 5), 2.5)


def test_what_was_read_is_not_read_again(out, monkeypatch):
    watch = OutputStatus(str(out))
    watch.poll()
    publish(out, annotation(id="new"), run=RUN, shard=3)
    read = []
    honest = status.read_footer
    monkeypatch.setattr(status, "read_footer", lambda path, reader: read.append(path) or honest(path, reader))
    assert watch.poll()[0].annotations == 5
    assert [path.rsplit("-", 1)[1] for path in read] == ["00003.parquet"]


def test_a_file_that_is_gone_counts_no_more(out):
    watch = OutputStatus(str(out))
    watch.poll()
    next(out.glob("errors/part-2*.parquet")).unlink()
    assert watch.poll()[0].failures == 0


def test_a_run_is_seen_active_runs_while_it_is(tmp_path):
    with run_lock(str(tmp_path), "one"):
        assert active_runs(str(tmp_path)) == ["one"]
    assert active_runs(str(tmp_path)) == []


def test_nothing_is_left_behind_by_looking(out):
    before = sorted(out.rglob("*"))
    OutputStatus(str(out)).poll()
    assert sorted(out.rglob("*")) == before
