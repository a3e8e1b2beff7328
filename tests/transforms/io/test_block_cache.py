"""Files read in blocks, each once."""

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
SECONDS = 30


class Store:
    """Tells which parts were asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content, self.asked, self.lock = content, [], threading.Lock()

    def __call__(self, start: int, size: int) -> bytes:
        with self.lock:
            self.asked.append((start, size))
        return self.content[start : start + size]

    @property
    def sent(self) -> int:
        return sum(len(self.content[start : start + size]) for start, size in self.asked)


def parts(content: bytes, sizes: tuple[int, int], seed: int = 1) -> list[tuple[int, int]]:
    """The whole of it, cut at random, with some bytes of others in between."""
    draw, start, found = random.Random(seed), 0, []
    while start < len(content):
        size = min(draw.randint(*sizes), len(content) - start)
        found.append((start, size))
        start += size + draw.randint(0, 100)
    return found


@pytest.mark.parametrize("sizes", [(1, 900), (3000, 9000), (9000, 30_000)])
def test_who_reads_on_reads_each_byte_once_in_a_request_for_each_block(
    sizes: tuple[int, int], small_blocks: int
) -> None:
    store, blocks = Store(), BlockReader(LruCache(16 * small_blocks))
    wanted = parts(CONTENT, sizes)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: blocks.read("a", *part, store), wanted))
    assert found == [CONTENT[start : start + size] for start, size in wanted]
    # The first is read alone: nobody knows yet that others follow.
    assert len(store.asked) <= len(CONTENT) // small_blocks + 2
    assert store.sent <= len(CONTENT) + 2 * sizes[1]


def test_who_reads_here_and_there_reads_nothing_else(small_blocks: int) -> None:
    store, blocks = Store(), BlockReader(LruCache(16 * small_blocks))
    for start in (90_000, 40_000, 10_000, 70_000):
        assert blocks.read("a", start, 50, store) == CONTENT[start : start + 50]
    assert store.asked == [(90_000, 50), (40_000, 50), (10_000, 50), (70_000, 50)]


def test_files_are_not_mixed_up(small_blocks: int) -> None:
    one, other, blocks = Store(), Store(CONTENT[::-1]), BlockReader(LruCache(16 * small_blocks))
    for start in range(0, 5000, 500):
        assert blocks.read("a", start, 500, one) == CONTENT[start : start + 500]
        assert blocks.read("b", start, 500, other) == CONTENT[::-1][start : start + 500]


def test_what_lies_between_the_first_block_and_the_last_is_one_request_and_is_not_kept(small_blocks: int) -> None:
    store, window = Store(), LruCache(16 * small_blocks)
    blocks = BlockReader(window)
    blocks.read("a", 0, 100, store)
    store.asked.clear()
    assert blocks.read("a", 100, 20_000, store) == CONTENT[100:20_100]
    assert store.asked == [(0, 4096), (4096, 3 * 4096), (4 * 4096, 4096)]
    assert [("a", index) in window for index in range(5)] == [True, False, False, False, True]


@pytest.mark.parametrize(("start", "there"), [(99_000, 1000), (99_999, 1), (100_000, 0), (200_000, 0)])
def test_behind_the_end_of_a_file_there_is_nothing(start: int, there: int, small_blocks: int) -> None:
    store, blocks = Store(), BlockReader(LruCache(16 * small_blocks))
    for _ in range(2):
        # The second time reading goes on, by blocks.
        assert blocks.read("a", start, 9000, store) == CONTENT[start:]
        blocks.read("a", max(0, start - 100), 100, store)
    assert len(CONTENT[start:]) == there


def test_all_wait_for_the_same_block_and_nobody_for_another(small_blocks: int) -> None:
    first, asked, go = threading.Event(), Store(), threading.Event()

    def fetch(start: int, size: int) -> bytes:
        if start == 0:
            first.set()
            assert go.wait(SECONDS)
        return asked(start, size)

    window = LruCache(16 * small_blocks)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(window.get_or_load, ("a", 0), lambda: fetch(0, 4096)) for _ in range(3)]
        assert first.wait(SECONDS)
        assert pool.submit(window.get_or_load, ("a", 5), lambda: fetch(5 * 4096, 4096)).result(SECONDS) == CONTENT[20480:24576]
        go.set()
        assert {future.result(SECONDS) for future in waiting} == {CONTENT[:4096]}
    assert sorted(asked.asked) == [(0, 4096), (20480, 4096)]


def test_a_failure_is_told_to_all_who_wait_and_is_not_kept(small_blocks: int) -> None:
    window, began, go = LruCache(16 * small_blocks), threading.Event(), threading.Event()

    def fail() -> bytes:
        began.set()
        assert go.wait(SECONDS)
        raise FetchError(Fault("ServerError", "no", retryable=True))

    def refuse() -> bytes:
        raise AssertionError("this was under way")

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(window.get_or_load, "a", fail)]
        assert began.wait(SECONDS)
        waiting += [pool.submit(window.get_or_load, "a", refuse) for _ in range(2)]
        time.sleep(0.2)
        go.set()
        told = [future.exception(SECONDS) for future in waiting]
    assert [type(error) for error in told] == [FetchError] * 3
    assert window.get_or_load("a", lambda: b"there") == b"there"


def test_the_window_holds_no_more_than_its_limit_and_the_latest(small_blocks: int) -> None:
    window = LruCache(10)
    for index in range(6):
        window.put(index, b"four", 4)
        window.get(1)
    assert [index in window for index in range(6)] == [False, True, False, False, False, True]
    window.put("large", b"x" * 20, 20)
    assert [index for index in (*range(6), "large") if index in window] == ["large"]
    window.put("large", b"x", 1)
    window.put("small", b"123456789", 9)
    assert "large" in window and "small" in window
