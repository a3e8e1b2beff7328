"""The command on portable runners after SIGINT and SIGTERM: how it ends, what is left, and the same command again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.running.drill import BUSY, draw_pictures
from support.running.launcher import Launcher
from support.running.output_ids import ids
from support.running.prism import PATIENCE, CommandRun
from support.running.worker_pools import pool_of_workers
from support.servers.job_server import java_launcher, job_service

pytestmark = pytest.mark.slow
PICTURES, BROKEN = 60, 1
ROWS = PICTURES + BROKEN
LOOPBACK = "--environment_type=LOOPBACK"
EMBEDDED = ("--runner", "PortableRunner", "--job_endpoint=embed")
ASKED_TO_CANCEL = (
    "interrupted: the job service was asked to cancel the job. When the workers of the job have ended, run the same"
    " command again to resume."
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("signals") / "photos", PICTURES, BROKEN)


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start a pool of workers for all tests. Yield the options to use it."""
    with pool_of_workers(tmp_path_factory.mktemp("pool")) as (address, _):
        yield "--environment_type=EXTERNAL", f"--environment_config={address}"


@pytest.fixture
def words(photos: Path, tmp_path: Path) -> tuple[Any, ...]:
    options = ("--model", "tiny", "--shard-size", 4, "--max-failure-rate", 0.5, "--no-report", "--query", "Is it red?")
    return ("annotate", photos, "--output", tmp_path / "out", *options)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def interrupt(out: Path, words: tuple[Any, ...], number: signal.Signals) -> str:
    """Send a signal to the command at work. Return its last line, after it has ended as it must."""
    run = CommandRun(out, *words)
    started = run.until_at_work()
    os.kill(run.process.pid, number)
    status, lines = run.ended()
    assert status == 128 + number, lines
    # Beam logs that it waits for a job server to start.
    lines = [line for line in lines if "Waiting for grpc channel" not in line]
    assert not [line for line in lines if "ERROR" in line or "WARNING" in line or "Traceback" in line], lines
    assert sum("interrupted" in line for line in lines) == 1
    assert not any(one.is_running() for one in started)
    return lines[-1]


def finish(launcher: Launcher, out: Path, words: tuple[Any, ...]) -> None:
    """Run the command until no worker of the interrupted job holds the lock: each row is there once."""
    end = time.monotonic() + PATIENCE
    while (status := launcher.run(*words)) == BUSY:
        assert "is writing to it. Wait until it ends" in launcher.said() and time.monotonic() < end, launcher.said()
        time.sleep(0.5)
    assert status == 0 and len(ids(out)) == ROWS, launcher.said()


def test_sigterm_publishes_the_answers_of_an_embedded_job_and_the_same_command_resumes(tmp_path, words, forks):
    out, words = tmp_path / "out", (*words, *EMBEDDED, LOOPBACK)
    line = interrupt(out, words, signal.SIGTERM)
    assert line.startswith("interrupted: ") and line.endswith(": run the same command again to resume")
    assert 0 < len(ids(out)) < ROWS
    finish(forks, out, words)


def test_sigint_ends_an_embedded_job_with_workers_of_a_pool(tmp_path, words, forks, external):
    out = tmp_path / "out"
    line = interrupt(out, (*words, *EMBEDDED, *external), signal.SIGINT)
    assert line == "interrupted: run the same command again to resume"
    finish(forks, out, words)


def test_sigterm_asks_a_job_service_elsewhere_to_cancel_the_job(tmp_path, words, forks, external, notes):
    out = tmp_path / "out"
    with job_service(notes) as address:
        service = ("--runner", "PortableRunner", f"--job_endpoint={address}")
        assert interrupt(out, (*words, *service, *external), signal.SIGTERM) == ASKED_TO_CANCEL
        assert notes.read_text() == "cancelled\n"
        finish(forks, out, words)


def test_sigint_cancels_the_job_before_its_job_server_in_java_is_stopped(tmp_path, words, external, notes):
    jar, java = tmp_path / "flink.jar", java_launcher(tmp_path / "java", notes)
    jar.touch()
    flink = ("--runner", "FlinkRunner", f"--flink_job_server_jar={jar}", f"--job_server_java_launcher={java}")
    assert interrupt(tmp_path / "out", (*words, *flink, *external), signal.SIGINT) == ASKED_TO_CANCEL
    assert notes.read_text().split()[:2] == ["cancelled", "stopped"]
