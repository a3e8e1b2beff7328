"""A process that holds the lock of its run waits until it is the only one, and deletes what the others have left."""

from __future__ import annotations

from pathlib import Path

from moondream_beam.transforms.output.layout import answers_path, unpublished_part_path
from moondream_beam.transforms.output.locks.lock import delete_temporary_files, run_lock, wait_alone, worker_lock


def test_the_lock_is_held_alone_once_the_workers_have_left_it(tmp_path: Path):
    out = str(tmp_path / "out")
    with run_lock(out, "one") as lock:
        with worker_lock(out, "one"):
            assert not wait_alone(lock, 0)
            assert lock.is_locked() and lock.exists()
        assert wait_alone(lock, 0)
        # Held alone already.
        assert wait_alone(lock, 0) and lock.exists()
    assert not Path(lock.path).exists()


def test_the_files_of_one_run_are_deleted_and_those_of_others_stay(tmp_path: Path):
    out = str(tmp_path / "out")
    delete_temporary_files(out, "one")
    with run_lock(out, "one") as lock:
        mine = [unpublished_part_path(out, "one", 0), answers_path(out, "one", 0, "0" * 32, 0, 5)]
        other = [unpublished_part_path(out, "two", 0), answers_path(out, "two", 0, "0" * 32, 0, 5)]
        for path in (*mine, *other):
            Path(path).touch()
        delete_temporary_files(out, "one")
        assert [Path(path).exists() for path in (*mine, *other)] == [False, False, True, True]
        assert lock.exists()
