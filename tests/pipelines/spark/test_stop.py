"""A Python worker keeps its answers when the driver asks for that, and when its executor ends. Needs no Spark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.data.outputs import kept_by_run
from support.data.rows import annotation
from support.spark.cluster import ROOT, until

from moondream_beam.pipelines.spark import stop
from moondream_beam.pipelines.spark.stop import request_stop, stop_on_request, withdraw_stop
from moondream_beam.transforms.core.errors import INTERRUPTED, RunStopped
from moondream_beam.transforms.output.answer_journal import OPEN_JOURNALS, AnswerJournal
from moondream_beam.transforms.output.writer import ShardWriter

WORKER = """
import sys, time
from support.data.rows import annotation
from moondream_beam.pipelines.spark.stop import stop_on_request
from moondream_beam.transforms.output.answer_journal import OPEN_JOURNALS, AnswerJournal
from moondream_beam.transforms.output.writer import ShardWriter

writer = ShardWriter(sys.argv[1], "one", 0)
with stop_on_request(sys.argv[1], "one"), OPEN_JOURNALS.shard(), AnswerJournal(writer, sys.argv[1], "one", 0, 600.0):
    writer.add(annotation())
    print("answered", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def restored():
    """Leave the handler of SIGHUP and the flag of this process as they were."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)
    INTERRUPTED.clear()


def test_a_worker_keeps_its_answers_and_ends_its_task_when_the_driver_asks(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stop, "POLL_S", 0.05)
    monkeypatch.setattr(stop, "GRACE_S", 0.05)
    out = str(tmp_path)
    writer = ShardWriter(out, "one", 0)
    with stop_on_request(out, "one"), OPEN_JOURNALS.shard(), AnswerJournal(writer, out, "one", 0, 600.0):
        writer.add(annotation())
        request_stop(out, "one")
        # The shard is still at work then, because its request does not end.
        assert until(lambda: kept_by_run(out)) == {"one": 1}
        assert INTERRUPTED.is_set()
        raise RunStopped("stopped: interrupted")


def test_a_task_that_begins_after_the_request_sees_it_at_once(tmp_path: Path):
    request_stop(str(tmp_path), "one")
    with stop_on_request(str(tmp_path), "one"):
        assert INTERRUPTED.is_set()
    withdraw_stop(str(tmp_path), "one")
    with stop_on_request(str(tmp_path), "one"):
        assert not INTERRUPTED.is_set()


def test_a_task_that_stops_for_another_reason_fails(tmp_path: Path):
    with pytest.raises(RunStopped, match="disk"), stop_on_request(str(tmp_path), "one"):
        raise RunStopped("stopped: the disk is full")


def test_a_worker_whose_executor_ends_keeps_its_answers(tmp_path: Path):
    path = os.pathsep.join(map(str, (ROOT / ".venv" / "house", ROOT / "tests")))
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, tmp_path],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    with worker:
        assert worker.stdout and worker.stdout.readline() == "answered\n"
        worker.send_signal(signal.SIGHUP)
        assert worker.wait(60) == 128 + signal.SIGHUP
    assert kept_by_run(str(tmp_path)) == {"one": 1}
