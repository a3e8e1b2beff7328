"""Fixtures for the tests of transforms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from support.data.rows import annotation, failure
from support.servers.fault_proxy import Proxy
from support.servers.object_stores import SERVERS, Bucket, make_bucket

from moondream_beam.transforms.core.records import Annotation, Failure
from moondream_beam.transforms.io import block_cache, files
from moondream_beam.transforms.io.containers import compression, forward_stream, parquet_images, reader


@pytest.fixture
def rows() -> Callable[..., list[Annotation | Failure]]:
    """Return a function that makes ``count`` annotations with the ids a0, a1, ..., or failures with f0, f1, ...."""

    def make(count: int, failed: bool = False) -> list[Annotation | Failure]:
        return [failure(id=f"f{index}") if failed else annotation(id=f"a{index}") for index in range(count)]

    return make


@pytest.fixture(scope="session")
def stores() -> Iterator[Callable[[str], Proxy]]:
    """Return a function that starts the server of a kind at its first call, one for all tests."""
    with contextlib.ExitStack() as running:
        started: dict[str, Proxy] = {}

        def start(kind: str) -> Proxy:
            if kind not in started:
                started[kind] = running.enter_context(SERVERS[kind]())
            started[kind].reset()
            return started[kind]

        yield start


@pytest.fixture
def bucket_of(stores: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Bucket]:
    """Return a function that makes an empty bucket of a kind, which all clients of this process then use."""

    def make(kind: str) -> Bucket:
        bucket = make_bucket(kind, stores(kind))
        for name, value in bucket.env.items():
            monkeypatch.setenv(name, value)
        # A pipeline does this when it is made.
        FileSystems.set_options(PipelineOptions(["--no_auth", "--project=test"]))
        return bucket

    return make


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Set blocks to 4 KiB, and the cache to 32 of them. Return the size of a block in bytes."""
    size = 4096
    for module in (block_cache, compression, parquet_images, files, forward_stream):
        monkeypatch.setattr(module, "BLOCK_BYTES", size)
    for module in (block_cache, files):
        monkeypatch.setattr(module, "MAX_SKIP_BYTES", size)
    monkeypatch.setattr(files, "MIN_READ_BYTES", size // 4)
    monkeypatch.setattr(reader, "CACHE_BYTES", 32 * size)
    return size
