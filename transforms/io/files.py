"""Open local files and objects of object stores for random access."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

from .block_cache import BLOCK_BYTES, MAX_SKIP_BYTES, ReadRange
from .object_stores.base import Stores
from .retry import FetchError, RetryPolicy
from .uris import OBJECT_STORE_SCHEMES, path_of, scheme_of

# The first request, and the first after a jump, asks for this much. Each sequential one doubles it, up to a block.
MIN_READ_BYTES = 64 << 10

# Of a JSON file that describes other files. Such a file is small, and a larger one is something else.
MAX_JSON_BYTES = 16 << 20


def open_file(
    path: str, stores: Stores | None = None, retry_policy: RetryPolicy | None = None, *, decompress: bool = True
) -> Any:
    """Return a local path, ``file://`` URI or object, open for reading bytes at any position.

    Args:
        decompress: if ``path`` ends with ``.gz``, return the decompressed bytes.
        stores: the clients for object stores; new ones by default.

    Raises:
        OSError: if a local file can't be opened. For an object, the first read raises this instead.
        NoClientError: if the client of the object store is not installed or finds no credentials.
    """
    is_gzip = path.lower().endswith(".gz") and decompress
    if (scheme := scheme_of(path)) not in OBJECT_STORE_SCHEMES:
        return gzip.open(path_of(path)) if is_gzip else open(path_of(path), "rb")
    stores, retry_policy = stores or Stores(), retry_policy or RetryPolicy()
    store = stores.get(scheme)
    ahead = ReadAhead(lambda start, size: stores.read_range(path, start, size, retry_policy))
    raw = RandomAccessFile(ahead, lambda: retry_policy.call(lambda _: store.size(path)))
    file = io.BufferedReader(raw, MIN_READ_BYTES)
    return gzip.open(file) if is_gzip else file


def read_if_there(path: str, max_bytes: int, stores: Stores | None = None) -> bytes | None:
    """Return the first ``max_bytes`` bytes of a file or an object; None if there is none, or it is refused for ever.

    Raises:
        OSError: if it can't be read now, such as while a server is busy.
    """
    try:
        with open_file(path, stores) as file:
            content: bytes = file.read(max_bytes)
            return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except FetchError as error:
        if error.fault.retryable:
            raise
        return None


class ReadAhead:
    """Read ranges of one file for one reader, and fetch more than it asks for while it reads sequentially.

    A read is sequential if it starts at most ``MAX_SKIP_BYTES`` after the end of the last fetched range.
    """

    def __init__(self, fetch: ReadRange) -> None:
        self._fetch = fetch
        self._start, self._content, self._fetch_bytes = 0, b"", MIN_READ_BYTES // 2
        self._end: int | None = None

    def __call__(self, start: int, size: int) -> bytes:
        """Return 1 to ``size`` bytes of the file from position ``start``; none if ``start`` is at or after its end."""
        at = start - self._start
        if not 0 <= at < len(self._content):
            if self._end is not None and start >= self._end:
                return b""
            is_sequential = 0 <= at - len(self._content) < MAX_SKIP_BYTES
            self._fetch_bytes = min(2 * self._fetch_bytes, BLOCK_BYTES) if is_sequential else MIN_READ_BYTES
            wanted = max(size, self._fetch_bytes)
            self._start, self._content, at = start, self._fetch(start, wanted), 0
            if len(self._content) < wanted:
                self._end = start + len(self._content)
        return self._content[at : at + size]


class RandomAccessFile(io.RawIOBase):
    """A read-only file over ``read_at(start, size)``, which returns up to ``size`` bytes, and none at the end.

    ``size()`` returns the length of the file in bytes. Without ``size``, the file can't seek from its end.
    """

    def __init__(self, read_at: ReadRange, size: Callable[[], int] | None = None) -> None:
        super().__init__()
        self._read_at, self._size, self._at = read_at, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, at least 0, and return it. Nothing is read; a position after the end is allowed.

        Raises:
            UnsupportedOperation: if ``whence`` is ``SEEK_END`` and the file was made without ``size``.
        """
        if whence == io.SEEK_END:
            if self._size is None:
                raise io.UnsupportedOperation("can't seek from the end: this file has no known size; use SEEK_SET")
            self._at = self._size()
        elif whence == io.SEEK_SET:
            self._at = 0
        self._at = max(0, self._at + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read up to ``len(buffer)`` bytes into ``buffer``; return how many, 0 at the end."""
        content = self._read_at(self._at, len(buffer)) if buffer else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
