"""Of several workers that create a file exclusively one succeeds, and all read what that one wrote."""

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

# Beam's writer for Azure leaves its temporary files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedRandom:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"),
]

AT_ONCE = 6


def all_at_once(path: str) -> list[bytes | None]:
    """Return what each of several workers reads that create a file at the same moment."""
    together = Barrier(AT_ONCE)

    def attempt(number: int) -> bytes | None:
        together.wait(60)
        return create_exclusive(path, str(number).encode())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(attempt, range(AT_ONCE)))


def test_on_a_disk_the_first_content_stays_and_no_draft_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "part")
    assert read_exclusive(path) is None
    assert create_exclusive(path, b"one") == b"one" == create_exclusive(path, b"two") == read_exclusive(path)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["part"]
    delete_exclusive(path)
    delete_exclusive(path)
    assert read_exclusive(path) is None
    assert create_exclusive(path, b"two") == b"two"


@pytest.mark.parametrize("turn", range(5))
def test_workers_that_create_a_file_at_once_read_the_same_content(tmp_path: Path, turn: int) -> None:
    found = all_at_once(str(tmp_path / "part"))
    assert len(set(found)) == 1 and found[0] is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["part"]


def test_a_file_that_was_half_deleted_can_be_created_again(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    assert read_exclusive(str(tmp_path / "part")) is None
    assert create_exclusive(str(tmp_path / "part"), b"one") == b"one"


def test_a_disk_that_refuses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "part").touch()
    with pytest.raises(OSError, match="Not a directory"):
        create_exclusive(str(tmp_path / "part"), b"one")
    assert [entry.name for entry in tmp_path.iterdir()] == ["part"]


@pytest.fixture
def out_in(bucket_of: Callable[[str], Bucket]) -> Iterator[Callable[[str, str], str]]:
    """Return a function that makes an output in a bucket of this kind, in which a file of this name is created."""

    def make(kind: str, name: str) -> str:
        bucket = bucket_of(kind)
        if kind == "gs":
            bucket.proxy.rule = refuse_second_creation(bucket, f"out/_temporary/{name}")
        return f"{bucket.root.replace('az://', 'azfs://devstoreaccount1/')}/out"

    yield make
    # Collect the temporary files while their warnings are still filtered.
    gc.collect()


def refuse_second_creation(bucket: Bucket, name: str) -> Rule:
    """Refuse to create an object of this name that exists already, as Google does. The emulator does not."""
    turn, under_way = Lock(), list[bool]()
    blob = bucket.client.bucket.blob(name)

    def rule(method: str, path: str, before: int) -> int | None:
        if method == "DELETE" or "/batch" in path:
            # The object exists, because a worker applies and deletes a commit only after its creation.
            under_way.clear()
        if "ifGenerationMatch=0" not in path:
            return None
        with turn:
            end = time.monotonic() + 60
            while under_way and not blob.exists() and time.monotonic() < end:
                time.sleep(0.01)
            if blob.exists():
                return 412
            under_way.append(True)
            return None

    return rule


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_in_a_bucket_too_workers_read_what_the_first_one_wrote(kind: str, out_in: Callable[[str, str], str]) -> None:
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
def test_of_several_attempts_at_a_shard_in_a_bucket_one_is_published(
    kind: str, out_in: Callable[[str, str], str]
) -> None:
    out, together = out_in(kind, "part-run-00000.commit"), Barrier(3)

    def attempt(failed: int) -> bool:
        writer = ShardWriter(out, "run", 0)
        for number in range(3):
            writer.add(failure(id=str(number)) if number < failed else annotation(id=str(number)))
        together.wait(60)
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
def test_a_store_without_conditional_writes_is_used_with_a_warning(bucket_of, caplog: pytest.LogCaptureFixture) -> None:
    bucket = bucket_of("s3")
    path = f"{bucket.root}/out/_temporary/part"
    bucket.proxy.rule = lambda method, path, before: 501 if method == "PUT" and not before % 2 else None
    assert create_exclusive(path, b"one") == b"one" == create_exclusive(path, b"two")
    assert f"{path}: this S3 service has no conditional writes" in caplog.text and "docs/clusters" in caplog.text
