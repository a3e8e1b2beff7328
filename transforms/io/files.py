"""Files of this machine or of a bucket, opened for reading from anywhere in them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

from .block_cache import BLOCK_BYTES, MAX_SKIP_BYTES, ReadRange
from .object_stores.base import Stores
from .retry import RetryPolicy
from .uris import OBJECT_STORE_SCHEMES, path_of, scheme_of

# What is read at least when reading begins or jumps: twice as much each time that it goes on, up to a block.
MIN_READ_BYTES = 64 << 10


def open_file(
    path: str, stores: Stores | None = None, retry_policy: RetryPolicy | None = None, *, as_is: bool = False
) -> Any:
    """A file, open for reading; ``.gz`` is unpacked unless it is wanted ``as_is``.

    Raises:
        OSError: it can't be read; in a bucket that shows with the first read.
        RuntimeError: the client for it is not installed, or can't sign in.
    """
    packed = path.lower().endswith(".gz") and not as_is
    if (scheme := scheme_of(path)) not in OBJECT_STORE_SCHEMES:
        return gzip.open(path_of(path)) if packed else open(path_of(path), "rb")
    stores, retry_policy = stores or Stores(), retry_policy or RetryPolicy()
    store = stores.get(scheme)
    ahead = ReadAhead(lambda start, size: stores.part(path, start, size, retry_policy))
    file = io.BufferedReader(
        RandomAccessFile(ahead, lambda: retry_policy.call(lambda _: store.size(path))), MIN_READ_BYTES
    )
    return gzip.open(file) if packed else file


class ReadAhead:
    """Parts of a file for one reader: the farther it goes on, the more at once; over what it passes by it jumps."""

    def __init__(self, fetch: ReadRange) -> None:
        self._fetch = fetch
        self._start, self._part, self._ahead = 0, b"", MIN_READ_BYTES // 2
        self._end: int | None = None

    def __call__(self, start: int, size: int) -> bytes:
        """Some bytes from there on, one at least, but where the file ends."""
        at = start - self._start
        if not 0 <= at < len(self._part):
            if self._end is not None and start >= self._end:
                return b""
            goes_on = 0 <= at - len(self._part) < MAX_SKIP_BYTES
            self._ahead = min(2 * self._ahead, BLOCK_BYTES) if goes_on else MIN_READ_BYTES
            wanted = max(size, self._ahead)
            self._start, self._part, at = start, self._fetch(start, wanted), 0
            if len(self._part) < wanted:
                self._end = start + len(self._part)
        return self._part[at : at + size]


class RandomAccessFile(io.RawIOBase):
    """A file made of a function that gives some of its bytes; ``size`` tells its end, for who asks for that."""

    def __init__(self, read_at: ReadRange, size: Callable[[], int] | None = None) -> None:
        super().__init__()
        self._read_at, self._size, self._at = read_at, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go there; nothing is read before somebody reads."""
        if whence == io.SEEK_END:
            if self._size is None:
                raise io.UnsupportedOperation("nobody knows where this ends")
            self._at = self._size()
        elif whence == io.SEEK_SET:
            self._at = 0
        self._at = max(0, self._at + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Some bytes, as many as fit, at most."""
        part = self._read_at(self._at, len(buffer)) if buffer else b""
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)
