"""One run at a time writes to an output, however the other runs end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moondream_beam.transforms.core.errors import RunStopped
from moondream_beam.transforms.io.object_stores.file_systems import FileSystems
from moondream_beam.transforms.output.files import exists
from moondream_beam.transforms.output.locks import lock, lock_file
from moondream_beam.transforms.output.locks.lock import OutputLockedError, acquire, release, run_lock, worker_lock
from moondream_beam.transforms.output.locks.lock_file import FileLock, ObjectLock

PATIENCE = 30.0
HOLDER = """
import sys, time
from moondream_beam.transforms.output.locks.lock import run_lock
with run_lock(sys.argv[1], sys.argv[2]):
    print("in", flush=True)
    time.sleep(600)
"""
# A part that a run has not published yet.
DRAFT = f"part-one-00000-{'0a' * 16}.draft"
RIVAL = """
import os, sys, time
from moondream_beam.transforms.output.locks.lock import OutputLockedError, run_lock
out, run, log = sys.argv[1:]
sys.stdin.readline()
for turn in range(5):
    try:
        with run_lock(out, f"{run}-{turn}"):
            with open(log, "a") as file:
                file.write("in\\n")
            time.sleep(0.05)
            with open(log, "a") as file:
                file.write("out\\n")
    except OutputLockedError:
        pass
"""


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


@pytest.fixture
def holder(out: str) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Return a function that starts a process which holds the lock of the output for a run."""
    started = []

    def start(run: str) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, out, run], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "in\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def left(out: str) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in Path(out).rglob("*"))


def test_a_lock_is_deleted_at_the_end_of_the_run(out: str) -> None:
    with run_lock(out, "one"):
        assert left(out) == ["_temporary", "_temporary/one.lock"]
    assert left(out) == []


def test_an_active_run_keeps_its_files_and_a_killed_run_loses_them_at_once(out: str, holder: Callable) -> None:
    process = holder("one")
    draft = Path(out, "_temporary", DRAFT)
    draft.touch()
    Path(out, "_temporary", "one.progress").mkdir()
    Path(out, "_temporary", "one.progress", "0.sums").touch()
    with pytest.raises(
        OutputLockedError, match=r"out: run one is writing to it. Wait until it ends, or choose another output.$"
    ):
        acquire(out, "two")
    # A process that is stopped is not dead.
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(OutputLockedError):
        acquire(out, "two")
    assert draft.exists()
    assert left(out) == [
        f"_temporary{name}" for name in ("", "/one.lock", "/one.progress", "/one.progress/0.sums", f"/{DRAFT}")
    ]
    process.kill()
    process.wait()
    with run_lock(out, "two"):
        assert left(out) == ["_temporary", "_temporary/two.lock"]


def test_all_active_slices_are_named(out: str, holder: Callable) -> None:
    holder("one-0of2")
    holder("one-1of2")
    with pytest.raises(OutputLockedError, match="runs one-0of2, one-1of2 are writing to it"):
        acquire(out, "two")


@pytest.mark.slow
def test_of_many_runs_that_begin_at_once_one_at_a_time_has_the_lock(out: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rivals = [
        subprocess.Popen([sys.executable, "-c", RIVAL, out, f"r{index}", log], stdin=subprocess.PIPE, text=True)
        for index in range(3)
    ]
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.close()
    assert [rival.wait(timeout=60) for rival in rivals] == [0] * 3
    turns = log.read_text().split()
    assert turns == ["in", "out"] * (len(turns) // 2)
    assert len(turns) >= 2
    assert left(out) == []


def test_a_worker_keeps_the_lock_of_its_run_alive(out: str) -> None:
    acquire(out, "one")
    with worker_lock(out, "one"), pytest.raises(OutputLockedError):
        acquire(out, "two")
    acquire(out, "two")


def test_a_run_whose_lock_was_broken_stops_before_it_writes(out: str) -> None:
    acquire(out, "one")
    acquire(out, "two")
    with (
        pytest.raises(RunStopped, match=f"run one has no lock in {out}.*Run the same command again"),
        worker_lock(out, "one"),
    ):
        pass
    with worker_lock(out, "two") as worker:
        assert worker.exists()


def test_acquiring_a_lock_again_changes_nothing(out: str) -> None:
    with run_lock(out, "one"):
        acquire(out, "one")
        Path(out, "_temporary", DRAFT).touch()
        acquire(out, "one")
        release(out, "one")
        assert left(out) == ["_temporary", "_temporary/one.lock", f"_temporary/{DRAFT}"]


def test_the_lock_file_stays_while_another_process_of_the_run_holds_the_lock(out: str) -> None:
    with run_lock(out, "one"):
        worker = worker_lock(out, "one")
        worker.__enter__()
    with pytest.raises(OutputLockedError):
        acquire(out, "two")
    worker.__exit__(None, None, None)
    acquire(out, "two")


def test_an_output_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), run_lock(str(tmp_path / "file"), "one"):
        pass


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use locks as in a bucket, where a lock expires after four seconds."""
    monkeypatch.setattr(lock, "HAS_FILE_LOCKS", False)
    monkeypatch.setattr(lock, "RETRY_DELAY_S", 0.01)
    monkeypatch.setattr(lock_file, "LEASE_S", 4.0)
    monkeypatch.setattr(lock_file, "RENEWAL_INTERVAL_S", 0.2)


@pytest.mark.usefixtures("no_locks")
def test_in_a_bucket_a_lock_is_held_while_the_run_renews_it(out: str) -> None:
    with run_lock(out, "one"):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with pytest.raises(OutputLockedError, match="its lock expires after 120 seconds"):
                acquire(out, "two")
    with run_lock(out, "two"):
        assert left(out) == ["_temporary", "_temporary/two.lock"]
    assert left(out) == []


@pytest.mark.usefixtures("no_locks")
def test_in_a_bucket_a_lock_that_is_not_renewed_expires_and_cannot_be_renewed(out: str) -> None:
    acquire(out, "one")
    Path(out, "_temporary", DRAFT).touch()
    with worker_lock(out, "one") as worker:
        with pytest.raises(OutputLockedError):
            acquire(out, "two")
        # As after a long sleep of the machine.
        worker.release()
        os.utime(Path(out, "_temporary", "one.lock"), (0, 0))
        acquire(out, "two")
        assert not worker.exists()
    assert left(out) == ["_temporary", "_temporary/two.lock"]
    with pytest.raises(RunStopped), worker_lock(out, "one"):
        pass


@pytest.mark.usefixtures("no_locks")
def test_a_lock_that_is_removed_during_its_renewal_stays_removed(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def slow_exists(path: str) -> bool:
        found = exists(path)
        if threading.current_thread().name == "lock":
            has_begun.set()
            may_end.wait(60)
        return found

    monkeypatch.setattr(lock_file, "exists", slow_exists)
    removed = ObjectLock(str(Path(out, "_temporary", "one.lock")))
    removed.acquire(new=True)
    (renewing,) = (each for each in threading.enumerate() if each.name == "lock")
    assert has_begun.wait(60)
    threading.Timer(0.3, may_end.set).start()
    removed.remove()
    renewing.join()
    assert not exists(removed.path)


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_stale_lock_that_another_process_breaks_at_the_same_time_is_no_error(
    out: str, monkeypatch: pytest.MonkeyPatch, is_made_anew: bool
) -> None:
    path, flock = Path(out, "_temporary", "one.lock"), fcntl.flock
    path.parent.mkdir(parents=True)
    path.touch()
    with (path.parent / "new").open("w") as new:
        flock(new, fcntl.LOCK_SH)

        def broken_meanwhile(file: int, operation: int) -> None:
            monkeypatch.undo()
            path.unlink()
            if is_made_anew:
                (path.parent / "new").rename(path)
            flock(file, operation)

        monkeypatch.setattr(lock_file.fcntl, "flock", broken_meanwhile)
        stale = FileLock(str(path))
        assert stale.break_if_stale(stale) is not is_made_anew
        assert path.exists() is is_made_anew


@pytest.mark.usefixtures("no_locks")
def test_in_a_bucket_a_lock_that_its_run_removes_during_a_look_is_not_held(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ObjectLock(str(Path(out, "_temporary", "two.lock")))
    own.acquire(new=True)
    seen = ObjectLock(str(Path(out, "_temporary", "one.lock")))

    def removed_meanwhile(path: str) -> float:
        Path(seen.path).unlink(missing_ok=True)
        return FileSystems.last_updated(path)

    looks = type("Looks", (lock_file.FileSystems,), {"last_updated": staticmethod(removed_meanwhile)})
    monkeypatch.setattr(lock_file, "FileSystems", looks)
    Path(seen.path).touch()
    assert not seen.is_locked()
    Path(seen.path).touch()
    assert seen.break_if_stale(own)
    own.remove()


@pytest.mark.usefixtures("no_locks")
def test_a_lock_that_was_broken_is_not_written_again(out: str) -> None:
    acquire(out, "one")
    lost = ObjectLock(str(Path(out, "_temporary", "one.lock")))
    assert lost.acquire()
    Path(lost.path).unlink()
    time.sleep(0.5)
    assert not lost.exists()
    lost.release()
