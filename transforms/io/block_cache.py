"""Read ranges of files through a cache of blocks that threads share: sequential readers fetch each block once."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

# Called with a position and a number of bytes, returns those bytes of a file: fewer at its end, none after it.
ReadRange = Callable[[int, int], bytes]

# The size of one request of a sequential reader.
BLOCK_BYTES = 8 << 20
# The cache of a process, over all files: two blocks, the first and last of a picture, for each of eight threads.
CACHE_BYTES = 16 * BLOCK_BYTES
# A read that starts up to this far after the end of a recent one is sequential: fetching the gap costs less than one
# more request.
MAX_SKIP_BYTES = 1 << 20
# The ends of this many reads are compared with the next read: one for each picture that is loading.
NUM_RECENT_READS = 16


class LruCache:
    """The most recently used values, up to ``max_bytes`` in all; a larger one is kept alone. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._loading: dict[Hashable, Future[Any]] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Return whether the key's value is cached, or is loading in ``get_or_load``."""
        with self._lock:
            return key in self._entries or key in self._loading

    def get(self, key: Hashable) -> Any:
        """Return the cached value and mark it as used, or None if it is not cached."""
        with self._lock:
            return self._get(key)

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Cache a value of ``size`` bytes, and evict the least recently used others beyond ``max_bytes``."""
        with self._lock:
            self._bytes += size - self._entries.pop(key, (None, 0))[1]
            self._entries[key] = (value, size)
            while self._bytes > self.max_bytes and len(self._entries) > 1:
                self._bytes -= self._entries.popitem(last=False)[1][1]

    def get_or_load(self, key: Hashable, load: Callable[[], Any], size_of: Callable[[Any], int] = len) -> Any:
        """Return the cached value; otherwise call ``load``, cache its value of ``size_of(value)`` bytes and return it.

        Single flight: a thread that asks for a key while another thread loads it waits for that value.

        Raises:
            Exception: if ``load`` raises it; in all threads that wait for this load. Nothing is cached then.
        """
        with self._lock:
            if (found := self._get(key)) is not None:
                return found
            loading = self._loading.get(key)
            mine: Future[Any] = Future()
            if loading is None:
                self._loading[key] = mine
        if loading is not None:
            return loading.result()
        try:
            value = load()
        except BaseException as error:
            self._end_load(key)
            mine.set_exception(error)
            raise
        self.put(key, value, size_of(value))
        self._end_load(key)
        mine.set_result(value)
        return value

    def _get(self, key: Hashable) -> Any:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def _end_load(self, key: Hashable) -> None:
        with self._lock:
            del self._loading[key]


class BlockReader:
    """Read ranges of files: sequential ones in whole blocks through a cache, all others directly.

    A read is sequential if its first block is in the cache, or if it starts up to ``MAX_SKIP_BYTES`` after the end of
    one of the last ``NUM_RECENT_READS`` reads of the same file.
    """

    def __init__(self, cache: LruCache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._recent_ends: deque[tuple[str, int]] = deque(maxlen=NUM_RECENT_READS)

    def read(self, file: str, start: int, size: int, fetch: ReadRange) -> bytes:
        """Return ``size`` bytes of ``file`` from position ``start``, fewer at its end. ``fetch`` reads that file.

        Raises:
            Exception: if ``fetch`` raises it.
        """
        if not self._is_sequential(file, start, start + size):
            return fetch(start, size)
        return b"".join(self._read_blocks(file, start, start + size, fetch))

    def _is_sequential(self, file: str, start: int, end: int) -> bool:
        with self._lock:
            near = any(name == file and 0 <= start - last < MAX_SKIP_BYTES for name, last in self._recent_ends)
            self._recent_ends.append((file, end))
        return near or (file, start // BLOCK_BYTES) in self._cache

    def _read_blocks(self, file: str, start: int, end: int, fetch: ReadRange) -> Iterator[bytes | memoryview]:
        """Yield the bytes from ``start`` up to ``end``, exclusive, in up to three parts; fewer at the end of the file.

        The blocks between hold no bytes of a neighbouring picture, so one request fetches them past the cache.
        """
        first, last = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        head = self._block(file, first, fetch)
        yield memoryview(head)[start - first * BLOCK_BYTES : end - first * BLOCK_BYTES]
        if first == last or len(head) < BLOCK_BYTES:
            return
        if between := (last - first - 1) * BLOCK_BYTES:
            middle = fetch((first + 1) * BLOCK_BYTES, between)
            yield middle
            if len(middle) < between:
                return
        yield memoryview(self._block(file, last, fetch))[: end - last * BLOCK_BYTES]

    def _block(self, file: str, index: int, fetch: ReadRange) -> bytes:
        block: bytes = self._cache.get_or_load((file, index), lambda: fetch(index * BLOCK_BYTES, BLOCK_BYTES))
        return block
