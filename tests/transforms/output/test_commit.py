"""Whoever writes it first has decided, and all find the same."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Lock

import pytest
from apache_beam.io.filesystems import FileSystems
from support.data.rows import annotation, failure
from support.servers.fault_proxy import Rule
from support.servers.object_stores import Bucket

from moondream_beam.transforms.output.commit import create_exclusive, delete_exclusive, read_exclusive
from moondream_beam.transforms.output.files import glob_files
from moondream_beam.transforms.output.writer import ShardWriter

# Beam's writer for Azure leaves its temporary files to the garbage collector, which comes when it likes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedRandom:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"),
]

AT_ONCE = 6


def all_at_once(path: str) -> list[bytes | None]:
    """What each of several finds that decide in the same moment."""
    together = Barrier(AT_ONCE)

    def attempt(number: int) -> bytes | None:
        together.wait(10)
        return create_exclusive(path, str(number).encode())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(attempt, range(AT_ONCE)))


def test_the_first_one_decides_on_a_disk_and_leaves_nothing_else_there(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "part")
    assert read_exclusive(path) is None
    assert create_exclusive(path, b"one") == b"one" == create_exclusive(path, b"two") == read_exclusive(path)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["part"]
    delete_exclusive(path)
    delete_exclusive(path)
    assert read_exclusive(path) is None
    assert create_exclusive(path, b"two") == b"two"


@pytest.mark.parametrize("turn", range(5))
def test_all_who_decide_at_once_find_the_same(tmp_path: Path, turn: int) -> None:
    found = all_at_once(str(tmp_path / "part"))
    assert len(set(found)) == 1 and found[0] is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["part"]


def test_one_who_died_while_forgetting_is_in_nobody_s_way(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    assert read_exclusive(str(tmp_path / "part")) is None
    assert create_exclusive(str(tmp_path / "part"), b"one") == b"one"


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "part").touch()
    with pytest.raises(OSError, match="Not a directory"):
        create_exclusive(str(tmp_path / "part"), b"one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["part"]


@pytest.fixture
def out_in(bucket_of: Callable[[str], Bucket]) -> Iterator[Callable[[str, str], str]]:
    """Makes an output in a bucket of a kind, as Beam names it, with this name for what is decided there."""

    def make(kind: str, name: str) -> str:
        bucket = bucket_of(kind)
        if kind == "gs":
            bucket.proxy.rule = as_google_does(bucket, f"out/_temporary/{name}")
        return f"{bucket.root.replace('az://', 'azfs://devstoreaccount1/')}/out"

    yield make
    # While the warnings of what is left are still expected.
    gc.collect()


def as_google_does(bucket: Bucket, name: str) -> Rule:
    """What the emulator does not: refuse what is to be written only where there is none. For one name."""
    turn, under_way = Lock(), list[bool]()
    blob = bucket.client.bucket.blob(name)

    def rule(method: str, path: str, before: int) -> int | None:
        if method == "DELETE" or "/batch" in path:
            # It was written, or there would be nothing to carry out and to forget.
            under_way.clear()
        if "ifGenerationMatch=0" not in path:
            return None
        with turn:
            end = time.monotonic() + 10
            while under_way and not blob.exists() and time.monotonic() < end:
                time.sleep(0.01)
            if blob.exists():
                return 412
            under_way.append(True)
            return None

    return rule


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_in_a_bucket_too_all_find_what_the_first_one_wrote(kind: str, out_in: Callable[[str, str], str]) -> None:
    path = f"{out_in(kind, 'part')}/_temporary/part"
    found = all_at_once(path)
    assert len(set(found)) == 1 and found[0] is not None
    assert create_exclusive(path, b"late") == read_exclusive(path) == found[0]
    delete_exclusive(path)
    delete_exclusive(path)
    assert read_exclusive(path) is None
    assert create_exclusive(path, b"late") == b"late"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_attempts_at_a_shard_in_a_bucket_end_as_one_of_them(kind: str, out_in: Callable[[str, str], str]) -> None:
    out, together = out_in(kind, "part-run-00000.commit"), Barrier(3)

    def attempt(failed: int) -> bool:
        writer = ShardWriter(out, "run", 0)
        for number in range(3):
            writer.add(failure(id=str(number)) if number < failed else annotation(id=str(number)))
        together.wait(10)
        return writer.publish()

    with ThreadPoolExecutor(3) as pool:
        published = list(pool.map(attempt, (0, 1, 2)))
    assert sum(published) <= 1
    writer = ShardWriter(out, "run", 0)
    assert writer.recover_commit()
    summary = writer.published_summary()
    assert summary.rows == 3
    assert not published[summary.failures] or sum(published) == 1
    assert glob_files(FileSystems.join(out, "_temporary", "*")) == []
    assert len(glob_files(f"{out}/data/*", f"{out}/errors/*")) == 1 + bool(summary.failures)


@pytest.mark.slow
def test_a_store_that_can_not_write_a_name_once_is_told_and_used(bucket_of, caplog: pytest.LogCaptureFixture) -> None:
    bucket = bucket_of("s3")
    path = f"{bucket.root}/out/_temporary/part"
    bucket.proxy.rule = lambda method, path, before: 501 if method == "PUT" and not before % 2 else None
    assert create_exclusive(path, b"one") == b"one" == create_exclusive(path, b"two")
    assert f"{path}: this S3 service has no conditional writes" in caplog.text and "docs/clusters.md" in caplog.text
