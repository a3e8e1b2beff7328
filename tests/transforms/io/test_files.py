"""Files on disk and in buckets are read at random with few requests."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers.object_stores import Bucket

from moondream_beam.transforms.io.files import RandomAccessFile, ReadAhead, open_file
from moondream_beam.transforms.io.object_stores.base import Stores
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy

CONTENT = random.Random(0).randbytes(100_000)


def read_ahead() -> tuple[ReadAhead, list[tuple[int, int]]]:
    """Return a ReadAhead over ``CONTENT`` and the list of ranges that it fetched."""
    fetched: list[tuple[int, int]] = []

    def fetch(start: int, size: int) -> bytes:
        fetched.append((start, size))
        return CONTENT[start : start + size]

    return ReadAhead(fetch), fetched


def test_sequential_reads_fetch_more_each_time(small_blocks: int) -> None:
    ahead, fetched = read_ahead()
    file = RandomAccessFile(ahead)
    assert b"".join(iter(lambda: file.read(512), b"")) == CONTENT
    assert fetched[:4] == [(0, 1024), (1024, 2048), (3072, 4096), (7168, 4096)]
    # The last fetch returns fewer bytes than asked for, so no further fetch looks for the end.
    assert sum(size for _, size in fetched[:-1]) < len(CONTENT) <= sum(size for _, size in fetched)


def test_reads_after_jumps_fetch_the_minimum(small_blocks: int) -> None:
    ahead, fetched = read_ahead()
    file = RandomAccessFile(ahead)
    for start in (0, 20_000, 40_000, 500, 99_999, 200_000):
        file.seek(start)
        assert file.read(100) == CONTENT[start : start + 100]
    assert {size for _, size in fetched} == {1024}


def test_seek_and_read_agree_with_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    with open(tmp_path / "a", "rb", buffering=0) as plain:
        file = RandomAccessFile(lambda start, size: CONTENT[start : start + size], lambda: len(CONTENT))
        for offset, whence in ((10, 0), (5, 1), (-8, 1), (-100, 2), (0, 2), (50, 2), (0, 0)):
            assert file.seek(offset, whence) == plain.seek(offset, whence) == file.tell()
            assert file.read(60) == plain.read(60)
    with pytest.raises(OSError, match="seek from the end"):
        RandomAccessFile(lambda start, size: b"").seek(0, 2)


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_file_in_a_bucket_is_read_at_any_position(kind: str, bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of(kind)
    uri = bucket.put("a.bin", CONTENT)
    with open_file(uri) as file:
        assert file.seek(0, 2) == len(CONTENT) and file.read() == b""
        assert file.seek(-10, 2) and file.read(100) == CONTENT[-10:]
        assert file.seek(7) == 7 and file.read(90_000) == CONTENT[7:90_007]
        file.seek(len(CONTENT) + 1000)
        assert file.read(10) == b""
    assert Stores().read_range(uri, 99_990, 100, RetryPolicy()) == CONTENT[99_990:]
    with open_file(bucket.put("empty", b"")) as file:
        assert file.read() == b""


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_missing_object_raises_file_not_found_when_read(kind: str, bucket_of: Callable[[str], Bucket]) -> None:
    uri = f"{bucket_of(kind).root}/gone"
    with open_file(uri, retry_policy=RetryPolicy(max_attempts=1)) as file:
        for action in (file.read, lambda: file.seek(0, 2)):
            with pytest.raises(FetchError) as caught:
                action()
            assert caught.value.fault.error == "FileNotFoundError"


def test_a_gz_file_is_decompressed_unless_decompress_is_false(
    tmp_path: Path, bucket_of: Callable[[str], Bucket]
) -> None:
    compressed = gzip.compress(b"url\nx.jpg\n")
    (tmp_path / "a.csv.gz").write_bytes(compressed)
    for path in (str(tmp_path / "a.csv.gz"), bucket_of("s3").put("a.csv.gz", compressed)):
        with open_file(path) as file:
            assert file.readline() == b"url\n"
        with open_file(path, decompress=False) as file:
            assert file.read() == compressed
