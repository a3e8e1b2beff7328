"""Sequential reads fetch each block once, and other reads fetch only their range."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from moondream_beam.models.tasks import Fault
from moondream_beam.transforms.io.block_cache import BlockReader, LruCache
from moondream_beam.transforms.io.retry import FetchError

CONTENT = random.Random(0).randbytes(100_000)
TIMEOUT_S = 30


class RecordingStore:
    """A ReadRange over ``content`` that records the requests."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content, self.requests, self.lock = content, [], threading.Lock()

    def __call__(self, start: int, size: int) -> bytes:
        with self.lock:
            self.requests.append((start, size))
        return self.content[start : start + size]

    @property
    def sent(self) -> int:
        return sum(len(self.content[start : start + size]) for start, size in self.requests)


def random_ranges(content: bytes, sizes: tuple[int, int], seed: int = 1) -> list[tuple[int, int]]:
    """Return ranges of random sizes over all of ``content``, with gaps of up to 100 bytes."""
    draw, start, found = random.Random(seed), 0, []
    while start < len(content):
        size = min(draw.randint(*sizes), len(content) - start)
        found.append((start, size))
        start += size + draw.randint(0, 100)
    return found


@pytest.mark.parametrize("sizes", [(1, 900), (3000, 9000), (9000, 30_000)])
def test_sequential_reads_make_one_request_per_block(sizes: tuple[int, int], small_blocks: int) -> None:
    store, blocks = RecordingStore(), BlockReader(LruCache(16 * small_blocks))
    wanted = random_ranges(CONTENT, sizes)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: blocks.read("a", *part, store), wanted))
    assert found == [CONTENT[start : start + size] for start, size in wanted]
    # The first read is not sequential yet, so it is one more request. Threads may swap neighbours, which costs another.
    assert len(store.requests) <= len(CONTENT) // small_blocks + 4
    assert store.sent <= len(CONTENT) + 2 * sizes[1]


def test_random_reads_fetch_only_their_ranges(small_blocks: int) -> None:
    store, blocks = RecordingStore(), BlockReader(LruCache(16 * small_blocks))
    for start in (90_000, 40_000, 10_000, 70_000):
        assert blocks.read("a", start, 50, store) == CONTENT[start : start + 50]
    assert store.requests == [(90_000, 50), (40_000, 50), (10_000, 50), (70_000, 50)]


def test_files_have_separate_blocks(small_blocks: int) -> None:
    one, other, blocks = RecordingStore(), RecordingStore(CONTENT[::-1]), BlockReader(LruCache(16 * small_blocks))
    for start in range(0, 5000, 500):
        assert blocks.read("a", start, 500, one) == CONTENT[start : start + 500]
        assert blocks.read("b", start, 500, other) == CONTENT[::-1][start : start + 500]


def test_the_blocks_between_are_one_request_and_are_not_cached(small_blocks: int) -> None:
    store, cache = RecordingStore(), LruCache(16 * small_blocks)
    blocks = BlockReader(cache)
    blocks.read("a", 0, 100, store)
    store.requests.clear()
    assert blocks.read("a", 100, 20_000, store) == CONTENT[100:20_100]
    assert store.requests == [(0, 4096), (4096, 3 * 4096), (4 * 4096, 4096)]
    assert [("a", index) in cache for index in range(5)] == [True, False, False, False, True]


@pytest.mark.parametrize(("start", "there"), [(99_000, 1000), (99_999, 1), (100_000, 0), (200_000, 0)])
def test_a_read_after_the_end_returns_what_exists(start: int, there: int, small_blocks: int) -> None:
    store, blocks = RecordingStore(), BlockReader(LruCache(16 * small_blocks))
    for _ in range(2):
        # The second time the read is sequential, so it reads blocks.
        assert blocks.read("a", start, 9000, store) == CONTENT[start:]
        blocks.read("a", max(0, start - 100), 100, store)
    assert len(CONTENT[start:]) == there


def test_threads_share_the_load_of_a_block_and_do_not_wait_for_others(small_blocks: int) -> None:
    started, store, may_finish = threading.Event(), RecordingStore(), threading.Event()

    def fetch(start: int, size: int) -> bytes:
        if start == 0:
            started.set()
            assert may_finish.wait(TIMEOUT_S)
        return store(start, size)

    cache = LruCache(16 * small_blocks)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.get_or_load, ("a", 0), lambda: fetch(0, 4096)) for _ in range(3)]
        assert started.wait(TIMEOUT_S)
        assert (
            pool.submit(cache.get_or_load, ("a", 5), lambda: fetch(5 * 4096, 4096)).result(TIMEOUT_S)
            == CONTENT[20480:24576]
        )
        may_finish.set()
        assert {future.result(TIMEOUT_S) for future in waiting} == {CONTENT[:4096]}
    assert sorted(store.requests) == [(0, 4096), (20480, 4096)]


def test_a_failed_load_raises_in_all_threads_and_is_not_cached(small_blocks: int) -> None:
    cache, started, may_finish = LruCache(16 * small_blocks), threading.Event(), threading.Event()

    def fail() -> bytes:
        started.set()
        assert may_finish.wait(TIMEOUT_S)
        raise FetchError(Fault("ServerError", "no", retryable=True))

    def refuse() -> bytes:
        raise AssertionError("another thread loads this")

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(cache.get_or_load, "a", fail)]
        assert started.wait(TIMEOUT_S)
        waiting += [pool.submit(cache.get_or_load, "a", refuse) for _ in range(2)]
        time.sleep(0.2)
        may_finish.set()
        errors = [future.exception(TIMEOUT_S) for future in waiting]
    assert [type(error) for error in errors] == [FetchError] * 3
    assert cache.get_or_load("a", lambda: b"there") == b"there"


def test_the_cache_evicts_the_least_recently_used_values(small_blocks: int) -> None:
    cache = LruCache(10)
    for index in range(6):
        cache.put(index, b"four", 4)
        cache.get(1)
    assert [index in cache for index in range(6)] == [False, True, False, False, False, True]
    cache.put("large", b"x" * 20, 20)
    assert [index for index in (*range(6), "large") if index in cache] == ["large"]
    cache.put("large", b"x", 1)
    cache.put("small", b"123456789", 9)
    assert "large" in cache and "small" in cache
