"""Rows of retried requests are removed from a file of errors, and no other rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.data.rows import failure

from moondream_beam.transforms.core.row_schema import FAILURE_SCHEMA
from moondream_beam.transforms.output.writer import ShardWriter
from moondream_beam.transforms.planning.removal import requeue as module
from moondream_beam.transforms.planning.removal.requeue import remove_rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a published file with ten failures, f0 to f9."""
    writer = ShardWriter(str(tmp_path), "one", 0)
    for index in range(10):
        writer.add(failure(id=f"f{index}"))
    writer.publish()
    return tmp_path / "errors" / "part-one-00000.parquet"


def test_some_rows_are_removed_and_the_others_stay(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_ROWS", 3)
    before = pq.read_table(path).to_pylist()
    assert remove_rows(str(path), ["f3", "f4", "f5", "f9", "elsewhere"], str(tmp_path), "two") == 4
    assert pq.read_table(path).to_pylist() == [before[index] for index in (0, 1, 2, 6, 7, 8)]
    assert pq.read_schema(path) == FAILURE_SCHEMA
    assert not list(tmp_path.glob("_temporary/*"))


def test_a_second_removal_changes_nothing(path: Path, tmp_path: Path) -> None:
    remove_rows(str(path), ["f3"], str(tmp_path), "two")
    before = path.stat()
    assert remove_rows(str(path), ["f3"], str(tmp_path), "two") == 0
    assert path.stat().st_ino == before.st_ino
    assert not list(tmp_path.glob("_temporary/*"))


def test_a_file_without_rows_is_deleted(path: Path, tmp_path: Path) -> None:
    assert remove_rows(str(path), [f"f{index}" for index in range(10)], str(tmp_path), "two") == 10
    assert not path.exists()
    assert remove_rows(str(path), [f"f{index}" for index in range(10)], str(tmp_path), "two") == 0
    assert not list(tmp_path.glob("_temporary/*"))
