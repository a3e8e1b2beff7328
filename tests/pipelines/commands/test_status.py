"""``moondream-beam status``."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from support.data.rows import NOW
from support.data.small_outputs import publish, some_of_each

from moondream_beam.pipelines.commands.status import format_runs, watch_runs
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.monitoring.status import OutputStatus, RunStatus
from moondream_beam.transforms.output.locks.lock import run_lock
from moondream_beam.transforms.output.run_record import write_record

RUN = RunStatus("r", "running", 40, 10, Count(30, 200), NOW, NOW, None)


@pytest.mark.parametrize(
    "run, words",
    [
        (RUN, "r  running: 50 of 200 requests (25 %), 10 errors, 5 a second, 30 s left"),
        (RUN._replace(planned=None), "r  running: 50 rows, 10 errors, 5 a second"),
        (
            RUN._replace(state="ended", annotations=0, failures=0, planned=Count(), record={"wall_seconds": 1.0}),
            "r  ended: 0 of 0 requests, 0 errors, 0 a second",
        ),
        (RUN._replace(annotations=0, failures=0), "r  running: 0 of 200 requests (0 %), 0 errors, 0 a second"),
        (
            RUN._replace(state="stopped", planned=None),
            "r  stopped: 50 rows, 10 errors, last row at 02 Jan 2030, 03:04 UTC; run the same command again to resume",
        ),
        (
            RUN._replace(state="ended", record={"balanced": False, "wall_seconds": 25.0}),
            "r  ended: 50 of 200 requests (25 %), 10 errors (does not balance), 2 a second",
        ),
        (
            RUN._replace(
                state="ended", planned=Count(30, 60), record={"balanced": True, "counts": {"failures": 20}}, last=None
            ),
            "r  ended: 50 of 60 requests (83.3 %), 10 errors, 10 errors retried by later runs",
        ),
        (
            RUN._replace(
                state="ended",
                planned=Count(30, 53),
                record={"balanced": True, "counts": {"annotations": 43}},
                last=None,
            ),
            "r  ended: 50 of 53 requests (94.3 %), 10 errors, 3 answers asked again by later runs",
        ),
        (
            RUN._replace(kept=20, unpublished=30, in_flight=16),
            "r  running: 80 of 200 requests (40 %), 10 errors, 16 in flight, 20 rows kept for the next run, "
            "8 a second, 15 s left",
        ),
        (
            RUN._replace(
                state="interrupted", record={"balanced": True, "wall_seconds": 25.0, "counts": {"failures": 10}}
            ),
            "r  interrupted: 50 of 200 requests (25 %), 10 errors, 2 a second; run the same command again to resume",
        ),
        (
            RUN._replace(
                state="interrupted", planned=Count(30, 200, shared=150), record={"wall_seconds": 25.0}, was_resumed=True
            ),
            "r  interrupted: 50 of 200 rows (25 %), 10 errors, 2 a second",
        ),
    ],
)
def test_a_run_is_one_line(run, words):
    assert format_runs([run], NOW + timedelta(seconds=10))[0] == words


def test_of_many_runs_the_latest_are_listed_and_all_are_counted():
    lines = format_runs([RUN._replace(run=f"r{index:02}") for index in range(25)], NOW)
    assert lines[0] == "15 earlier runs" and lines[1].startswith("r15 ") and len(lines) == 12
    assert lines[-1] == "total: 1,000 rows in data/ and 250 in errors/"


def test_the_command_counts_the_rows_of_an_output(tmp_path, command):
    out = publish(tmp_path, *some_of_each(tmp_path / "photos"))
    status, stdout, stderr = command("status", out)
    assert (status, stderr) == (0, "")
    assert stdout.splitlines()[-1] == "total: 13 rows in data/ and 2 in errors/"


def test_watching_prints_changes_and_ends_with_the_run(tmp_path):
    run = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-abcd"
    stream = io.StringIO()
    with run_lock(str(tmp_path), run):
        watcher = threading.Thread(target=watch_runs, args=(OutputStatus(str(tmp_path)), 0.05, stream))
        watcher.start()
        publish(tmp_path, *some_of_each(tmp_path / "photos"), run=run)
        while "15 rows" not in stream.getvalue():
            assert watcher.is_alive()
        write_record(str(tmp_path), run, {"run": run, "counts": {"pending": 15}, "wall_seconds": 1.0})
    watcher.join(30)
    assert "ended: 15 of 15 requests" in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_watching_waits_for_a_run_that_has_not_begun(tmp_path, monkeypatch, command):
    out = tmp_path / "out"

    def begin(seconds):
        publish(out, *some_of_each(tmp_path / "photos"))

    monkeypatch.setattr(time, "sleep", begin)
    status, stdout, stderr = command("status", out, "--watch", "0.5")
    assert status == 0 and f"{out}: no run has begun" in stderr
    assert stdout.splitlines()[-1] == "total: 13 rows in data/ and 2 in errors/"


def test_in_a_narrow_terminal_wrapped_lines_are_replaced_completely(tmp_path):
    run = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-abcd"
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with os.fdopen(terminal, "w") as stream, os.fdopen(keyboard, "rb") as screen, run_lock(str(tmp_path), run):
        watcher = threading.Thread(target=watch_runs, args=(OutputStatus(str(tmp_path)), 0.05, stream))
        watcher.start()
        seen = os.read(screen.fileno(), 1000)
        while not seen.endswith(b"errors/\r\n"):
            seen += os.read(screen.fileno(), 1000)
        write_record(str(tmp_path), run, {"run": run, "counts": {}, "wall_seconds": 1.0})
        watcher.join(30)
        # "RUN  running: 0 rows, 0 errors, 0 a second" takes two rows of 40 columns, and the total takes one.
        assert os.read(screen.fileno(), 1000).startswith(b"\x1b[3F\x1b[J")


@pytest.mark.parametrize(
    "words, cure",
    [
        (("nowhere",), "nowhere: there is no run"),
        (("nowhere", "--watch", "0"), "more than 0 seconds"),
        (("nowhere", "--watch", "nan"), "more than 0 seconds"),
        (("nowhere", "--watch", "inf"), "at most 86400"),
        (("--watch", "nowhere"), "give OUT before --watch"),
        (("nowhere", "--wacht"), "unknown option --wacht"),
        (("http://example.com/out",), "give a folder"),
    ],
)
def test_a_bad_argument_is_one_line_of_error(words, cure, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, stdout, stderr = command("status", *words)
    assert status == 2 and stdout == "" and cure in stderr and len(stderr.splitlines()) == 1
