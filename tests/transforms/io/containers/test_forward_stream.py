"""Forward streams: chunks are produced once for threads that ask in nearly ascending order."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from support.running.access_order import ask

from moondream_beam.transforms.io.block_cache import LruCache
from moondream_beam.transforms.io.containers import forward_stream as module
from moondream_beam.transforms.io.containers.forward_stream import ForwardStream, StreamPool, read_at


def numbers(count: int, problem: str = "") -> Iterator[bytes]:
    yield from (b"%03d" % index for index in range(count))
    if problem:
        raise ValueError(problem)


def stream(count: int = 100, problem: str = "", limit: int = 48) -> ForwardStream:
    return ForwardStream("numbers", lambda: numbers(count, problem), LruCache(limit), len)


def test_threads_that_ask_nearly_in_order_begin_the_stream_once() -> None:
    asked = stream(400, limit=96)
    assert ask(asked.chunk, range(400)) == [b"%03d" % index for index in range(400)] and asked.num_begins == 1


def test_a_request_for_an_evicted_chunk_begins_the_stream_again() -> None:
    asked = stream()
    assert asked.chunk(50) == b"050" and asked.chunk(35) == b"035" and asked.num_begins == 1
    assert asked.chunk(10) == b"010" and asked.num_begins == 2
    assert asked.chunk(99) == b"099" and asked.num_begins == 2


def test_a_request_past_the_end_returns_none_without_reading() -> None:
    asked = stream(10)
    assert [asked.chunk(index) for index in (10, 9, 30, 10)] == [None, b"009", None, None]
    assert asked.num_begins == 1


def test_a_broken_stream_raises_each_time_and_keeps_the_chunks_before() -> None:
    asked = stream(40, "broken")
    for index in (40, 50, 40):
        with pytest.raises(ValueError, match="broken"):
            asked.chunk(index)
    assert asked.chunk(39) == b"039" and asked.num_begins == 1
    assert asked.chunk(3) == b"003" and asked.num_begins == 2


def test_after_an_oserror_the_stream_begins_again() -> None:
    times = iter([5, 100])

    def begin() -> Iterator[bytes]:
        yield from numbers(next(times))
        raise OSError("reset")

    asked = ForwardStream("numbers", begin, LruCache(48), len)
    with pytest.raises(OSError, match="reset"):
        asked.chunk(7)
    assert asked.chunk(7) == b"007" and asked.num_begins == 2


def test_a_range_of_bytes_is_joined_from_blocks(small_blocks: int) -> None:
    content = random.Random(0).randbytes(3 * small_blocks + 100)

    def begin() -> Iterator[bytes]:
        yield from (content[start : start + small_blocks] for start in range(0, len(content), small_blocks))
        raise ValueError("broken")

    asked = ForwardStream("bytes", begin, LruCache(8 * small_blocks), len)
    for start, size in ((0, 10), (4090, 20), (100, 9000), (4096, 4096), (12_380, 500)):
        assert read_at(asked, start, size) == content[start : start + size]
    with pytest.raises(ValueError, match="broken"):
        read_at(asked, 5 * small_blocks, 1)


def test_the_least_recently_used_stream_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_STREAMS", 2)
    is_open: list[str] = []

    def begin(name: str) -> Iterator[bytes]:
        is_open.append(name)
        try:
            yield from numbers(100)
        finally:
            is_open.remove(name)

    streams = StreamPool(LruCache(6))
    for name in "aabcabc":
        assert streams.get(name, lambda name=name: begin(name)).chunk(20) == b"020"
    assert sorted(is_open) == ["b", "c"]
