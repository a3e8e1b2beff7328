"""Of a run whose output is in a bucket, the plan, the published files and the journal of answers tell the progress."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from support.data.rows import annotation, failure
from support.servers.object_stores import Bucket

from moondream_beam.pipelines.display import progress as display
from moondream_beam.pipelines.display.progress import show_progress
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring.bucket_progress import BucketProgress
from moondream_beam.transforms.monitoring.progress import ProgressFiles
from moondream_beam.transforms.output.answer_journal import AnswerJournal
from moondream_beam.transforms.output.run_record import write_record
from moondream_beam.transforms.output.writer import ShardWriter

RUN = "20300102T030400-abcd"


def keep(out: str, shard: int, count: int, run: str = RUN) -> ShardWriter:
    """Leave rows in the journal of answers, as an attempt at a shard does at each checkpoint. Return its writer."""
    writer = ShardWriter(out, run, shard)
    for index in range(count):
        writer.add(annotation(id=f"{shard}-{index}"))
    AnswerJournal(writer, out, run, shard, 60.0).flush()
    return writer


def test_a_run_in_a_bucket_shows_its_rows_before_its_first_shard_ends(
    bucket_of: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch
):
    out = f"{bucket_of('s3').root}/out"
    progress = BucketProgress(ProgressFiles(out, RUN))
    assert progress.read() == (None, Summary())
    planned = ProgressFiles(out, RUN).record_plan(Count(pictures=50, pending=200))
    keep(out, 0, 3)
    assert progress.read() == (planned, Summary(annotations=3))
    keep(out, 1, 2).publish()
    keep(out, 7, 9, f"{RUN}-2")
    failed = ShardWriter(out, RUN, 2)
    failed.add(failure())
    failed.publish()
    # The journal of shard 1 is not deleted yet. Its rows do not count twice.
    assert progress.read() == (planned, Summary(annotations=5, failures=1))

    monkeypatch.setattr(display, "LINE_INTERVAL_S", 0.01)
    stream = io.StringIO()
    with show_progress(ProgressFiles(out, RUN), stream):
        while not stream.getvalue():
            pass
    assert stream.getvalue().startswith("6 of 200 requests, ") and "tokens/s" not in stream.getvalue()


def test_a_run_that_has_ended_has_the_counts_of_its_record(tmp_path):
    out = str(tmp_path)
    progress = BucketProgress(ProgressFiles(out, RUN))
    counts = {"pictures": 1, "pending": 2, "annotations": 2, "failures": 0}
    write_record(out, RUN, {"run": RUN, "counts": counts, "requests": 2})
    assert progress.read() == (Count(pictures=1, pending=2), Summary(annotations=2))


def test_a_bucket_that_cannot_be_read_keeps_the_last_counts(tmp_path):
    out = str(tmp_path)
    planned = ProgressFiles(out, RUN).record_plan(Count(pictures=1, pending=2))
    progress = BucketProgress(ProgressFiles(out, RUN))
    keep(out, 0, 1)
    assert progress.read() == (planned, Summary(annotations=1))
    broken = tmp_path / "data" / f"part-{RUN}-00000.parquet"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"no Parquet")
    assert progress.read() == (planned, Summary(annotations=1))
    broken.unlink()
    keep(out, 1, 1)
    assert progress.read() == (planned, Summary(annotations=2))
