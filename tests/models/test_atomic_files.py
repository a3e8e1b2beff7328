"""Readers see the old content or the new content, and a failed write leaves nothing else behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from moondream_beam.models import atomic_files
from moondream_beam.models.atomic_files import atomic_path, write_atomic

DIES_WHILE_WRITING = """
import os, sys
from moondream_beam.models.atomic_files import write_atomic
os.fsync = lambda file: os._exit(9)
write_atomic(sys.argv[1], b"new")
"""


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with atomic_path(path) as draft:
        draft.write_bytes(b"new")
        assert path.read_bytes() == b"old" and draft.parent == tmp_path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_renamed_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "set", tmp_path / "draft") as draft:
        draft.mkdir()
        (draft / "a.txt").touch()
        assert not (tmp_path / "set").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["set", "set/a.txt"]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda draft: None])
def test_a_block_that_raises_leaves_no_draft(tmp_path: Path, make) -> None:
    with pytest.raises(KeyError), atomic_path(tmp_path / "a") as draft:
        make(draft)
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, path]).returncode == 9
    assert path.read_bytes() == b"old"
    (draft,) = set(tmp_path.iterdir()) - {path}
    assert draft.name.startswith("a.json.") and draft.suffix == ".part"


def test_content_and_name_are_synced_unless_that_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(atomic_files, "sync", synced.append)
    write_atomic(tmp_path / "a", b"1", tmp_path / "draft")
    assert synced == [tmp_path / "draft", tmp_path]
    write_atomic(tmp_path / "b", b"1", durable=False)
    assert len(synced) == 2 and (tmp_path / "b").read_bytes() == b"1"


def test_a_folder_that_others_delete_meanwhile_is_made_again(tmp_path: Path) -> None:
    over = threading.Event()

    def delete_empty_folders() -> None:
        while not over.wait(0.001):
            for folder in (tmp_path / "drafts", tmp_path / "files"):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    thread = threading.Thread(target=delete_empty_folders)
    thread.start()
    try:
        for number in range(200):
            write_atomic(tmp_path / "files" / "a", str(number).encode(), tmp_path / "drafts" / "a")
            assert (tmp_path / "files" / "a").read_bytes() == str(number).encode()
            (tmp_path / "files" / "a").unlink()
    finally:
        over.set()
        thread.join()


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_atomic(tmp_path / "file" / "a", b"1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(OSError, match="full"):
        write_atomic(tmp_path / "full", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
