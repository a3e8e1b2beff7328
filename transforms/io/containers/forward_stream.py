"""Share sequential readers between threads: compressed archives and row groups, which have no random access.

Threads ask for chunks in nearly ascending order. Each chunk is read once and kept in a cache for the other threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

from ..block_cache import BLOCK_BYTES, LruCache

# Each stream holds an open file and a decompressor. A shard reads one container, and the next while the last ends.
MAX_OPEN_STREAMS = 4

Chunks = Iterator[Any]


class ForwardStream:
    """Random access by index to chunks that can only be produced in order. Threads may share it.

    ``begin`` returns an iterator over all chunks, from index 0. A ValueError from it marks the end of what can be read;
    after an OSError the next request calls ``begin`` again. Chunks are kept in the cache ``window`` under ``(name,
    index)``. A request for an earlier chunk that was evicted calls ``begin`` again; ``num_begins`` counts the calls.
    """

    def __init__(
        self, name: Hashable, begin: Callable[[], Chunks], window: LruCache, size_of: Callable[[Any], int]
    ) -> None:
        self._name, self._begin, self._window, self._size_of = name, begin, window, size_of
        self._chunks: Chunks | None = None
        self._next = 0
        self._end: int | None = None
        self._problem = ""
        self.num_begins = 0
        self._reading, self._lock = threading.Lock(), threading.Lock()
        # A thread that waits gets its chunk here, even if the window evicts the chunk before the thread wakes up.
        self._wanted: dict[int, Future[Any]] = {}

    def chunk(self, index: int) -> Any:
        """Return chunk ``index``, counted from 0, or None if it is past the last one.

        Raises:
            OSError: if the file can't be read; a later call tries again.
            ValueError: if the content is broken in or before this chunk; later calls for it raise this too.
        """
        with self._lock:
            if (piece := self._window.get((self._name, index))) is not None:
                return piece
            wanted = self._wanted.setdefault(index, Future())
        with self._reading:
            if not wanted.done():
                self._read_to(index)
        return wanted.result()

    def _read_to(self, index: int) -> None:
        try:
            if self._end is None or index < self._end:
                if self._chunks is None or index < self._next:
                    self._chunks, self._next, self.num_begins = self._begin(), 0, self.num_begins + 1
                while self._next <= index:
                    self._deliver(next(self._chunks))
                return
        except (StopIteration, ValueError) as error:
            self._end, self._chunks = self._next, None
            self._problem = "" if isinstance(error, StopIteration) else str(error)
        except BaseException as error:
            # The iterator stopped in the middle of a read and can't be continued.
            self._chunks = None
            self._pop_future(index).set_exception(error)
            return
        if self._problem:
            self._pop_future(index).set_exception(ValueError(self._problem))
        else:
            self._pop_future(index).set_result(None)

    def _deliver(self, piece: Any) -> None:
        """Put the chunk at ``_next`` into the window and into its Future in ``_wanted``, and advance ``_next``."""
        with self._lock:
            self._window.put((self._name, self._next), piece, self._size_of(piece))
            if wanted := self._wanted.pop(self._next, None):
                wanted.set_result(piece)
        self._next += 1

    def _pop_future(self, index: int) -> Future[Any]:
        with self._lock:
            return self._wanted.pop(index)


def read_at(stream: ForwardStream, start: int, size: int) -> bytes:
    """Return ``size`` bytes from byte ``start`` of a stream whose chunks are blocks of ``BLOCK_BYTES``.

    Fewer bytes are returned if the stream ends or breaks off within the request, none if it ends before ``start``.

    Raises:
        OSError: if the file can't be read; a later call tries again.
        ValueError: if the content is broken in or before the block that holds byte ``start``.
    """
    parts: list[memoryview] = []
    for index in range(start // BLOCK_BYTES, (start + size - 1) // BLOCK_BYTES + 1):
        try:
            block = stream.chunk(index)
        except ValueError:
            if not parts:
                raise
            break
        at = index * BLOCK_BYTES
        part = memoryview(block or b"")[max(0, start - at) : start + size - at]
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


class StreamPool:
    """Up to ``MAX_OPEN_STREAMS`` open streams; beyond that the least recently used is dropped. Threads may share it."""

    def __init__(self, window: LruCache) -> None:
        self.window = window
        self._lock = threading.Lock()
        self._open: OrderedDict[Hashable, ForwardStream] = OrderedDict()

    def get(self, name: Hashable, begin: Callable[[], Chunks], size_of: Callable[[Any], int] = len) -> ForwardStream:
        """Return the open stream of this name, or open one with ``begin``."""
        with self._lock:
            if name not in self._open:
                self._open[name] = ForwardStream(name, begin, self.window, size_of)
            self._open.move_to_end(name)
            if len(self._open) > MAX_OPEN_STREAMS:
                # Its file is closed when the last thread that reads it drops it.
                self._open.popitem(last=False)
            return self._open[name]

    def open(self) -> list[ForwardStream]:
        """Return the open streams, the least recently used first."""
        with self._lock:
            return list(self._open.values())
