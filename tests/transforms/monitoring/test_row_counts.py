"""Rows are counted in the published files. A file that cannot be read is reported and not counted as correct."""

from __future__ import annotations

import gc
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core.summary import Summary
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.io.retry import RetryPolicy
from moondream_beam.transforms.monitoring import row_counts as module
from moondream_beam.transforms.monitoring.row_counts import CountRows, RowCounts, count_rows, list_run_files
from moondream_beam.transforms.output.writer import ShardWriter

QUICK = RetryPolicy(max_attempts=3, timeout_s=20, initial_delay_s=0.001)
PICTURES = 6


def publish(out: Path | str, run: str, shard: int, rows: list) -> None:
    writer = ShardWriter(str(out), run, shard)
    for row in rows:
        writer.add(row)
    writer.publish()


def counted(out: Path | str, run: str) -> RowCounts:
    step = CountRows(str(out), run, QUICK)
    (found,) = collect(lambda pipeline: pipeline | beam.Create([Summary()]) | step)
    return found


def test_only_the_rows_of_one_run_are_counted(tmp_path: Path, rows: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 2)
    for shard in range(5):
        publish(tmp_path, "one", shard, [*rows(shard), *rows(1, failed=True)])
    for run in ("one-2", "one-0of2", "on", "two"):
        publish(tmp_path, run, 0, rows(3))
    assert counted(tmp_path, "one") == RowCounts(data=10, errors=5, files=10)
    assert counted(tmp_path, "one-0of2") == RowCounts(data=3, files=1)
    assert counted(tmp_path, "none") == RowCounts()


def test_copies_of_a_file_are_counted_under_every_name(tmp_path: Path, rows: Callable) -> None:
    publish(tmp_path, "one", 0, rows(3))
    for copy in ("part-one-00000 (copy)", "part-one-00000-1", "part-one-00007"):
        shutil.copy(tmp_path / "data" / "part-one-00000.parquet", tmp_path / "data" / f"{copy}.parquet")
    assert len(list_run_files(str(tmp_path), "one")) == 4
    assert counted(tmp_path, "one").data == 12


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_file_that_is_not_parquet_is_named_and_nothing_is_counted(
    tmp_path: Path, rows: Callable, content: bytes
) -> None:
    for shard in range(3):
        publish(tmp_path, "one", shard, rows(3))
    (tmp_path / "data" / "part-one-00001.parquet").write_bytes(content)
    found = counted(tmp_path, "one")
    assert found._replace(count_error="") == RowCounts()
    assert "part-one-00001.parquet: ArrowInvalid: " in found.count_error and "\n" not in found.count_error


def test_a_file_that_was_deleted_after_the_listing_is_named(tmp_path: Path) -> None:
    assert "part-one-00000.parquet" in count_rows([str(tmp_path / "data/part-one-00000.parquet")], QUICK).count_error


@dataclass(frozen=True)
class Trouble(Echo):
    """An annotator that deletes, or copies, a published file of an earlier shard before it answers."""

    out: str = ""
    copies: bool = False

    def answer(self, requests):
        for path in sorted(Path(self.out, "data").glob("*.parquet"))[:1]:
            if self.copies:
                shutil.copy(path, path.with_name("part-run-99999.parquet"))
            else:
                path.unlink()
        yield from super().answer(requests)


@pytest.mark.parametrize("copies", [False, True])
def test_a_published_file_that_is_lost_or_copied_unbalances_the_record(tmp_path: Path, copies: bool) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for width in range(1, PICTURES + 1):
        Image.new("RGB", (width, 2)).save(photos / f"{width}.png")
    job = AnnotateToParquet((Caption(),), Trouble(out=str(out), copies=copies), str(out), run="run", shard_size=1)
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(photos)) | job)
    assert record["counts"]["annotations"] == PICTURES
    assert record["balanced"] is False
    assert (record["published"]["data"] > PICTURES) is copies and record["published"]["data"] != PICTURES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
@pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedRandom:ResourceWarning")
def test_errors_of_a_store_are_retried_and_lasting_ones_are_reported(
    kind: str, bucket_of: Callable[[str], Bucket], rows: Callable
) -> None:
    bucket = bucket_of(kind)
    out = f"{bucket.root.replace('az://', 'azfs://devstoreaccount1/')}/out"
    for shard in range(3):
        publish(out, "one", shard, [*rows(2), *rows(1, failed=True)])
    assert counted(out, "one") == RowCounts(data=6, errors=3, files=6)
    twice = threading.Semaphore(2)
    bucket.proxy.rule = lambda method, path, before: 403 if "00001" in path and twice.acquire(blocking=False) else None
    assert counted(out, "one") == RowCounts(data=6, errors=3, files=6)
    assert len(bucket.proxy.wrong) == 2
    bucket.proxy.rule = lambda method, path, before: 403 if "part-one" in path else None
    assert counted(out, "one").count_error
    bucket.proxy.rule = lambda method, path, before: 403
    assert counted(out, "one").count_error
    # Beam's writer for Azure leaves files to the garbage collector. Collect them while the warning is filtered.
    gc.collect()
