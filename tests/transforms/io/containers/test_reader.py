"""Images inside files in an object store: how many requests and bytes they take, and that they are right."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.access_order import ask
from support.running.beam_runs import collect
from support.servers.fault_proxy import HALF, RESET
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.manifest import ReadManifests
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns
from moondream_beam.transforms.inputs.patterns.patterns import list_archive
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy

QUICK = RetryPolicy(max_attempts=3, initial_delay_s=0.001)


def archive(sizes: list[int]) -> bytes:
    """A tar of images of random bytes, each followed by a text file."""
    draw, contents = random.Random(0), {}
    for index, size in enumerate(sizes):
        contents[f"{index:05}.jpg"], contents[f"{index:05}.txt"] = draw.randbytes(size), b"a caption"
    return tarred(contents)


def tarred(contents: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def png(number: int) -> bytes:
    """An image that is 10 + number pixels wide."""
    file = io.BytesIO()
    Image.new("RGB", (10 + number, 8)).save(file, "PNG")
    return file.getvalue()


def members(uri: str) -> list[ImageRef]:
    return [ref for ref in list_archive(ImageRef(uri, "a")) if not ref.skipped]


def naively(content: bytes) -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]


def read(fetch: Fetcher, refs: list[ImageRef]) -> list[bytes]:
    return ask(fetch, [ref.location for ref in refs])


@pytest.mark.parametrize(
    ("sizes", "listing"), [([600] * 60, 1.0), ([100, 900, 3000, 40, 9000] * 6, 1.0), ([20_000] * 8, 0.25)]
)
def test_an_archive_is_listed_and_read_in_few_requests_and_once(
    sizes: list[int],
    listing: float,
    bucket_of: Callable[[str], Bucket],
    small_blocks: int,
) -> None:
    bucket, content = bucket_of("s3"), archive(sizes)
    blocks = len(content) // small_blocks + 1
    uri = bucket.put("a.tar", content)
    refs = members(uri)
    # Listing reads only the headers of large members.
    assert len(bucket.proxy.asked) <= blocks + len(sizes) % 100 and bucket.proxy.sent <= len(content) * listing + 1024
    bucket.proxy.reset()
    assert read(Fetcher(), refs) == naively(content)
    # The first members may be read alone, and again with their block.
    assert len(bucket.proxy.asked) <= blocks + 10
    assert bucket.proxy.sent <= len(content) + 3 * max(sizes) + small_blocks


def test_a_compressed_archive_is_read_once_however_many_threads_ask(
    bucket_of: Callable[[str], Bucket], small_blocks: int
) -> None:
    bucket, content = bucket_of("s3"), archive([100, 900, 3000, 40, 9000] * 6)
    packed = gzip.compress(content)
    refs = members(bucket.put("a.tar.gz", packed))
    assert bucket.proxy.sent <= len(packed) + small_blocks
    bucket.proxy.reset()
    assert read(Fetcher(), refs) == naively(content)
    assert bucket.proxy.sent <= len(packed)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_failed_requests_are_retried(ending: str, bucket_of: Callable[[str], Bucket], small_blocks: int) -> None:
    bucket, content = bucket_of("s3"), archive([600] * 100)
    refs = members(bucket.put(f"a{ending}", gzip.compress(content) if ending == ".tar.gz" else content))
    faults = iter([503, HALF, 500] * 1000)
    draw = random.Random(0)
    bucket.proxy.rule = lambda method, path, before: next(faults) if draw.random() < 0.5 else None
    assert read(Fetcher(retry_policy=RetryPolicy(max_attempts=12, initial_delay_s=0.001)), refs) == naively(content)
    assert len(bucket.proxy.wrong) >= 3


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_members_can_be_read_once_the_store_has_recovered(
    ending: str, bucket_of: Callable[[str], Bucket], small_blocks: int
) -> None:
    bucket, content, fetch = bucket_of("s3"), archive([600] * 40), Fetcher(retry_policy=QUICK)
    refs = members(bucket.put(f"a{ending}", gzip.compress(content) if ending == ".tar.gz" else content))
    bucket.proxy.rule = lambda method, path, before: 503
    for ref in refs[:3]:
        with pytest.raises(FetchError) as told:
            fetch(ref.location)
        assert told.value.fault.retryable and told.value.fault.attempts == 3
    bucket.proxy.reset()
    assert read(fetch, refs) == naively(content)


def test_scattered_members_of_a_large_archive_are_read_without_their_neighbours(
    bucket_of: Callable[[str], Bucket], small_blocks: int
) -> None:
    bucket, content = bucket_of("s3"), archive([600] * 200)
    refs = members(bucket.put("a.tar", content))
    bucket.proxy.reset()
    fetch = Fetcher()
    assert [fetch(refs[index].location) for index in (7, 151, 90)] == [
        naively(content)[index] for index in (7, 151, 90)
    ]
    assert bucket.proxy.sent == 3 * (600 + 512)


def test_an_archive_that_shrank_or_was_deleted_in_its_bucket_is_refused(
    bucket_of: Callable[[str], Bucket], small_blocks: int
) -> None:
    bucket, content = bucket_of("s3"), archive([600] * 40)
    refs = members(bucket.put("a.tar", content))
    bucket.put("a.tar", content[: refs[8].inside.offset + 10])
    fetch = Fetcher(retry_policy=QUICK)
    assert [fetch(ref.location) for ref in refs[:8]] == naively(content)[:8]
    for ref in refs[8:]:
        with pytest.raises(ValueError, match="shorter"):
            fetch(ref.location)
    bucket.delete("a.tar")
    with pytest.raises(FetchError, match="NoSuchKey"):
        Fetcher(retry_policy=QUICK)(refs[0].location)


def test_a_local_archive_is_read_in_little_memory(
    tmp_path: Path, small_blocks: int, memory_peak: Callable[[], int]
) -> None:
    content = archive([60_000] * 60)
    expected = [sha256(member).digest() for member in naively(content)]
    for name, packed in (("a.tar", content), ("a.tar.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(packed)
        refs, fetch = members(str(tmp_path / name)), Fetcher()
        memory_peak()
        assert [sha256(fetch(ref.location)).digest() for ref in refs] == expected
        assert memory_peak() < 10 * 60_000


@pytest.mark.slow
def test_the_whole_job_balances_when_some_requests_to_the_bucket_fail(
    bucket_of: Callable[[str], Bucket], small_blocks: int, tmp_path: Path
) -> None:
    bucket = bucket_of("s3")
    pictures = [png(number) for number in range(40)]
    for ending, pack in (
        (".tar", bytes),
        (".tar.gz", gzip.compress),
        (".tar.bz2", bz2.compress),
        (".tar.xz", lzma.compress),
    ):
        bucket.put(f"sets/a{ending}", pack(tarred({f"{number}.png": each for number, each in enumerate(pictures)})))
    table = pa.table({"image": [{"bytes": each, "path": f"{number}.png"} for number, each in enumerate(pictures)]})
    for name in ("b", "c"):
        file = io.BytesIO()
        pq.write_table(table, file, row_group_size=7)
        bucket.put(f"lists/{name}.parquet", file.getvalue())

    def run() -> dict[str, Any]:
        columns = check_columns([f"{bucket.root}/lists/*"], Columns(image="image", tasks=(Caption(),)), [])
        retry_policy = RetryPolicy(max_attempts=8, initial_delay_s=0.001)
        job = AnnotateToParquet((Caption(),), Echo(), str(tmp_path / "out"), fetch=Fetcher(retry_policy=retry_policy))
        inputs = ReadImages(f"{bucket.root}/sets/*"), ReadManifests([f"{bucket.root}/lists/*"], columns)
        (record,) = collect(
            lambda pipeline: (
                (pipeline | "Archives" >> inputs[0], pipeline | "Lists" >> inputs[1]) | beam.Flatten() | job
            )
        )
        return record

    draw, faults = random.Random(0), [503, HALF, RESET]
    bucket.proxy.rule = lambda method, path, before: draw.choice(faults) if draw.random() < 0.1 else None
    record = run()
    assert record["balanced"] and record["counts"]["annotations"] == 6 * len(pictures) and bucket.proxy.wrong
    found = Counter(
        (row["uri"].split("#")[0], row["width"])
        for path in (tmp_path / "out" / "data").glob("*.parquet")
        for row in pq.read_table(path, columns=["uri", "width"]).to_pylist()
    )
    assert set(found.values()) == {1} and len(found) == 6 * len(pictures)
    assert run()["counts"]["pending"] == 0
