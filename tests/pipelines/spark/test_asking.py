"""What ``annotate`` gives to ``mapInArrow``: batches of pictures become batches of rows. Needs no Spark."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from PIL import Image
from support.data.echo import Echo

from moondream_beam import Caption
from moondream_beam.pipelines.spark.dataframe import ROW_SCHEMA, Asking
from moondream_beam.pipelines.spark.rows import CONTENT, PATH, Source
from moondream_beam.pipelines.spark.worker import annotator_digest
from moondream_beam.transforms.core.records import Job
from moondream_beam.transforms.images.fetch import Fetcher

SOURCE = Source((Caption(),), "path", "content", (("label", "label"),))
BATCH = 64


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Leave no frozen objects."""
    yield
    gc.unfreeze()


def asking() -> Asking:
    echo = Echo()
    return Asking(Job(SOURCE.spec.job_tasks(), echo), SOURCE, annotator_digest(echo), Fetcher(), False)


def batches(count: int, taken: list[int] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield batches of pictures of different sizes, with a broken one in each batch, and 20 kB of bytes each."""
    for start in range(0, count, BATCH):
        contents = []
        for number in range(start, start + BATCH):
            file = io.BytesIO()
            Image.new("L", (8 + number % 100, 8 + number // 100)).save(file, "PNG")
            contents.append((b"" if number == start else file.getvalue()) + bytes(20_000))
        paths, labels = [f"/{start + n}.png" for n in range(BATCH)], list(range(start, start + BATCH))
        if taken is not None:
            taken.append(start)
        yield pa.RecordBatch.from_pydict({"label": labels, PATH: paths, CONTENT: pa.array(contents, pa.binary())})


def test_each_picture_has_a_row_with_its_own_kept_values():
    table = pa.Table.from_batches(list(asking()(batches(2 * BATCH))))
    assert table.schema.names == [*ROW_SCHEMA.names, "label"]
    rows = table.to_pylist()
    assert sorted(row["label"] for row in rows) == list(range(2 * BATCH))
    assert all(row["uri"] == f"/{row['label']}.png" for row in rows)
    assert sorted(row["label"] for row in rows if row["kind"] == "errors") == [0, BATCH]


def test_the_peak_of_memory_does_not_grow_with_the_rows(memory_peak: Callable[[], int]):
    peaks = []
    for count in (4 * BATCH, 40 * BATCH):
        memory_peak()
        assert sum(batch.num_rows for batch in asking()(batches(count))) == count
        peaks.append(memory_peak())
    # The bytes of the pictures alone are 5 and 51 MB.
    assert peaks[1] < peaks[0] + (2 << 20)


def test_a_reader_that_stops_early_leaves_the_other_pictures_unread():
    taken: list[int] = []
    rows = asking()(batches(40 * BATCH, taken))
    assert next(rows).num_rows == BATCH
    rows.close()
    assert len(taken) <= 6
