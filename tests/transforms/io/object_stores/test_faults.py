"""The whole job with pictures and output in one bucket, while some requests fail."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from support.data.echo import Echo
from support.servers.fault_proxy import HALF, RESET, SLOW
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption, Detect
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_images
from moondream_beam.transforms.io.retry import RetryPolicy
from moondream_beam.transforms.output.locks.lock import run_lock
from moondream_beam.transforms.output.run_record import read_record

pytestmark = [
    pytest.mark.slow,
    # Beam's writer for Azure does not close its temporary files.
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedRandom:ResourceWarning"),
]

TASKS = (Caption(), Detect("dog"))
QUICK = RetryPolicy(max_attempts=3, timeout_s=20, initial_delay_s=0.01)
# By number of the picture, the fault of the first requests for it, and the fault of all requests for it.
TRANSIENT = {0: 500, 1: 503, 2: RESET, 3: HALF, 4: SLOW}
PERSISTENT = {5: 403, 6: RESET, 7: 500}
DELETED = 8
COUNT = 12


@pytest.fixture(params=["s3", "gs", "az"])
def bucket(
    request: pytest.FixtureRequest, bucket_of: Callable[[str], Bucket], caplog: pytest.LogCaptureFixture
) -> Iterator[Bucket]:
    bucket = bucket_of(request.param)
    for number in range(COUNT):
        file = io.BytesIO()
        Image.new("RGB", (100 + number, 80), (number, 0, 0)).save(file, "PNG")
        bucket.put(f"photos/{number:02}.png", file.getvalue())
    yield bucket
    # The log holds the writer that failed. Delete it while the server still runs and its warnings are still ignored,
    # because it writes once more when it is deleted.
    caplog.get_records("call").clear()
    gc.collect()


def output_of(bucket: Bucket) -> str:
    """Return the URI of the output in the form that Beam takes."""
    return f"{bucket.root.replace('az://', 'azfs://devstoreaccount1/')}/out"


def run(bucket: Bucket, name: str, shard_size: int = 6) -> dict[str, Any]:
    """Run the job from the bucket into the bucket. Return the run's record."""
    output = output_of(bucket)
    # As the command does: a run that fails deletes its lock.
    pipeline = beam.Pipeline(FnApiRunner(), options=PipelineOptions(["--no_auth", "--project=test"]))
    job = AnnotateToParquet(TASKS, Echo(), output, shard_size=shard_size, run=name, fetch=Fetcher(retry_policy=QUICK))
    _ = pipeline | ReadImages(f"{bucket.root}/photos") | job
    with run_lock(output, name):
        pipeline.run().wait_until_finish()
    return read_record(output, name)


def rows(bucket: Bucket, kind: str) -> list[dict[str, Any]]:
    """Return the rows of all files of ``kind``, data or errors, read without Beam."""
    fetch = Fetcher()
    found = [ref.uri for ref in list_images(f"{bucket.root}/out/{kind}/*.parquet")]
    return [row for uri in found for row in pq.read_table(io.BytesIO(fetch(uri))).to_pylist()]


def faults(bucket: Bucket) -> Callable[[str, str, int], int | str | None]:
    """Return the rule of ``TRANSIENT`` and ``PERSISTENT`` faults, which deletes one picture at its first request."""
    first_request = threading.Lock()

    def rule(method: str, path: str, before: int) -> int | str | None:
        number = next((n for n in range(COUNT) if f"{n:02}.png" in path), None)
        if method != "GET" or number is None:
            return None
        if number == DELETED and first_request.acquire(blocking=False):
            bucket.delete(f"photos/{number:02}.png")
        if number in TRANSIENT and before < (2 if TRANSIENT[number] != SLOW else 1):
            return TRANSIENT[number]
        return PERSISTENT.get(number)

    return rule


def test_every_request_has_one_row_while_the_store_fails(bucket: Bucket) -> None:
    bucket.proxy.rule = faults(bucket)
    record = run(bucket, "one")
    assert record["balanced"], record["counts"]
    assert record["counts"] | {"done": 0} == record["counts"]
    data, errors = rows(bucket, "data"), rows(bucket, "errors")
    bad = {f"{number:02}.png" for number in (*PERSISTENT, DELETED)}
    assert sorted(row["filename"] for row in data) == sorted(
        name for n in range(COUNT) for name in [f"{n:02}.png"] * 2 if name not in bad
    )
    found = {(row["filename"], row["stage"], row["error"], row["retryable"], row["attempts"]) for row in errors}
    assert found == {
        ("05.png", "fetch", "PermissionError", False, 1),
        ("06.png", "fetch", "ConnectionError", True, 3),
        ("07.png", "fetch", "ServerError", True, 3),
        ("08.png", "fetch", "FileNotFoundError", False, 1),
    }
    assert len(errors) == 2 * len(found) and len({row["id"] for row in data + errors}) == 2 * COUNT
    bucket.proxy.reset()
    second = run(bucket, "two")
    assert second["counts"] | {"pending": 0, "annotations": 0, "failures": 0} == second["counts"] and second["balanced"]
    assert len(rows(bucket, "data") + rows(bucket, "errors")) == 2 * COUNT


def test_a_write_that_fails_once_is_retried(bucket: Bucket) -> None:
    """Beam's own clients retry; that of Azure after 15 seconds."""

    def rule(method: str, path: str, before: int) -> int | None:
        with lock:
            if method in ("PUT", "POST") and "part-now" in path and wrong.acquire(blocking=False):
                return 503
        return None

    lock, wrong = threading.Lock(), threading.Semaphore(1)
    bucket.proxy.rule = rule
    record = run(bucket, "now", COUNT)
    assert bucket.proxy.wrong and record["balanced"] and record["counts"]["annotations"] == 2 * COUNT
    assert len({row["id"] for row in rows(bucket, "data")}) == len(rows(bucket, "data")) == 2 * COUNT


def test_the_next_run_completes_a_run_that_could_not_write(bucket: Bucket) -> None:
    def rule(method: str, path: str, before: int) -> int | None:
        return 403 if method in ("PUT", "POST") and "part-one-00001" in path else None

    bucket.proxy.rule = rule
    with pytest.raises(Exception, match="can't write to"):
        run(bucket, "one")
    bucket.proxy.reset()
    kept = len(rows(bucket, "data"))
    record = run(bucket, "two")
    assert record["balanced"] and record["counts"]["done"] == kept
    assert len({row["id"] for row in rows(bucket, "data")}) == len(rows(bucket, "data")) == 2 * COUNT
