"""What can only be read from its beginning on: once, forward, for many threads that ask in nearly that order."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from typing import Any

from ..block_cache import BLOCK_BYTES, LruCache

# Each holds a file and the state of what unpacks it. A shard reads one, and the next one while the last ends.
OPEN_STREAMS = 4

Pieces = Iterator[Any]


class ForwardStream:
    """Pieces, numbered from 0, that come one after another; the latest are kept in a window.

    ``begin`` starts from the first. It ends after the last one, or raises a ValueError where nothing can come any more;
    an OSError may pass. ``begun`` tells how often it was asked: more than once where somebody asks for what the window
    has let go of.
    """

    def __init__(
        self, name: Hashable, begin: Callable[[], Pieces], window: LruCache, size_of: Callable[[Any], int]
    ) -> None:
        self._name, self._begin, self._window, self._size_of = name, begin, window, size_of
        self._pieces: Pieces | None = None
        self._next = 0
        self._end: int | None = None
        self._problem = ""
        self.begun = 0
        self._reading, self._lock = threading.Lock(), threading.Lock()
        # Who waits has its piece when that comes by, however late its thread wakes up.
        self._wanted: dict[int, Future[Any]] = {}

    def piece(self, index: int) -> Any:
        """A piece; None behind the last.

        Raises:
            OSError: it can't be read.
            ValueError: what is there broke off before it.
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
                if self._pieces is None or index < self._next:
                    self._pieces, self._next, self.begun = self._begin(), 0, self.begun + 1
                while self._next <= index:
                    self._give(next(self._pieces))
                return
        except (StopIteration, ValueError) as error:
            self._end, self._pieces = self._next, None
            self._problem = "" if isinstance(error, StopIteration) else str(error)
        except BaseException as error:
            # Halfway through a read: nobody knows where it would go on.
            self._pieces = None
            self._forget(index).set_exception(error)
            return
        if self._problem:
            self._forget(index).set_exception(ValueError(self._problem))
        else:
            self._forget(index).set_result(None)

    def _give(self, piece: Any) -> None:
        with self._lock:
            self._window.put((self._name, self._next), piece, self._size_of(piece))
            if wanted := self._wanted.pop(self._next, None):
                wanted.set_result(piece)
        self._next += 1

    def _forget(self, index: int) -> Future[Any]:
        with self._lock:
            return self._wanted.pop(index)


def read_at(stream: ForwardStream, start: int, size: int) -> bytes:
    """Bytes of a stream whose pieces are blocks; fewer where it ends.

    Raises:
        OSError: they can't be read.
        ValueError: it broke off before the first of them.
    """
    parts: list[memoryview] = []
    for index in range(start // BLOCK_BYTES, (start + size - 1) // BLOCK_BYTES + 1):
        try:
            block = stream.piece(index)
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
    """The streams that a process has open. Threads may share them."""

    def __init__(self, window: LruCache) -> None:
        self.window = window
        self._lock = threading.Lock()
        self._open: OrderedDict[Hashable, ForwardStream] = OrderedDict()

    def of(self, name: Hashable, begin: Callable[[], Pieces], size_of: Callable[[Any], int] = len) -> ForwardStream:
        """The stream of that name."""
        with self._lock:
            if name not in self._open:
                self._open[name] = ForwardStream(name, begin, self.window, size_of)
            self._open.move_to_end(name)
            if len(self._open) > OPEN_STREAMS:
                # Its file closes when the last thread that reads it is done.
                self._open.popitem(last=False)
            return self._open[name]

    def open(self) -> list[ForwardStream]:
        """Those that are open."""
        with self._lock:
            return list(self._open.values())
