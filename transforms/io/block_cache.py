"""Files read in blocks: each is fetched once, by whoever asks first, and kept a while for whoever comes next."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

# So many bytes from a place in a file: fewer where it ends, none behind its end.
ReadRange = Callable[[int, int], bytes]

# What one request for a stretch of a file asks for.
BLOCK_BYTES = 8 << 20
# What a process keeps at hand, from all its files: two blocks, the first and the last of a picture, for each of the
# threads that load.
CACHE_BYTES = 16 * BLOCK_BYTES
# What lies no farther behind the last read goes on where that ended: what is between is worth less than a request.
MAX_SKIP_BYTES = 1 << 20
# As many as pictures are under way.
NUM_RECENT_READS = 16


class LruCache:
    """The latest pieces of whatever is read, no more than ``limit`` bytes of them, but for one that is larger.

    Threads may share it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._under_way: dict[Hashable, Future[Any]] = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether a piece is here, or on its way."""
        with self._lock:
            return key in self._kept or key in self._under_way

    def find(self, key: Hashable) -> Any:
        """A piece that is here; None where it is not."""
        with self._lock:
            return self._find(key)

    def keep(self, key: Hashable, piece: Any, size: int) -> None:
        """Keep a piece, and let go of those that nobody asked for the longest."""
        with self._lock:
            self._bytes += size - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = (piece, size)
            while self._bytes > self.limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1]

    def once(self, key: Hashable, make: Callable[[], Any], size_of: Callable[[Any], int] = len) -> Any:
        """The piece, made by whoever comes first. All others who come meanwhile wait for that one and no other.

        What goes wrong is told to all who wait, and not kept: who comes later tries anew.
        """
        with self._lock:
            if (found := self._find(key)) is not None:
                return found
            others = self._under_way.get(key)
            mine: Future[Any] = Future()
            if others is None:
                self._under_way[key] = mine
        if others is not None:
            return others.result()
        try:
            piece = make()
        except BaseException as error:
            self._end(key)
            mine.set_exception(error)
            raise
        self.keep(key, piece, size_of(piece))
        self._end(key)
        mine.set_result(piece)
        return piece

    def _find(self, key: Hashable) -> Any:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _end(self, key: Hashable) -> None:
        with self._lock:
            del self._under_way[key]


class BlockReader:
    """Parts of files: read in blocks where reading goes on, alone where it is somewhere else each time."""

    def __init__(self, window: LruCache) -> None:
        self._window = window
        self._lock = threading.Lock()
        self._ends: deque[tuple[str, int]] = deque(maxlen=NUM_RECENT_READS)

    def read(self, file: str, start: int, size: int, fetch: ReadRange) -> bytes:
        """So many bytes of a file from there on; fewer where it ends.

        Raises:
            whatever ``fetch`` raises, which reads the part of the file that it is given.
        """
        if not self._goes_on(file, start, start + size):
            return fetch(start, size)
        return b"".join(self._parts(file, start, start + size, fetch))

    def _goes_on(self, file: str, start: int, end: int) -> bool:
        with self._lock:
            near = any(name == file and 0 <= start - last < MAX_SKIP_BYTES for name, last in self._ends)
            self._ends.append((file, end))
        return near or (file, start // BLOCK_BYTES) in self._window

    def _parts(self, file: str, start: int, end: int, fetch: ReadRange) -> Iterator[bytes | memoryview]:
        """What lies in the first block, in those between, and in the last one. Those between have nothing else in
        them: they come as one, and are not kept."""
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
        block: bytes = self._window.once((file, index), lambda: fetch(index * BLOCK_BYTES, BLOCK_BYTES))
        return block
