"""Fetch the bytes of an image from a path, a URL, an object store, an archive, a Parquet file or a data: URI."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
import threading
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import unquote_to_bytes

from ..core.errors import RunStopped
from ..core.records import Location
from ..io.containers.location import ImageCell, Member
from ..io.containers.reader import ContainerReader
from ..io.http.client import PROJECT, HttpClient
from ..io.object_stores.base import NoClientError, Stores
from ..io.retry import RetryPolicy, too_large
from ..io.uris import DATA, HTTP_SCHEMES, LOCAL, OBJECT_STORE_SCHEMES, path_of, scheme_of

# Larger files are refused: no photograph is that large, and up to PICTURES_AHEAD files are in memory at once.
MAX_FILE_BYTES = 256 << 20
# In characters. A data: URI is part of its row and passes through every shuffle.
MAX_DATA_URI = 4 << 20
_DATA = re.compile(r"data:[^,;]*(?:;[^,;=]+=[^,;]*)*(;base64)?,", re.IGNORECASE)


class EmptyFileError(ValueError):
    """An image has no bytes."""


class Clients:
    """The clients of one process, which keep connections and credentials. Unpickling gives fresh clients."""

    def __init__(self) -> None:
        self.stores = Stores()
        self.containers = ContainerReader(self.stores)
        self._web: HttpClient | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Clients, ()

    def web(self, allow_private_addresses: bool) -> HttpClient:
        """Return the client for http(s). The first call decides whether it may reach private addresses."""
        with self._lock:
            if self._web is None:
                self._web = HttpClient(allow_private_addresses, user_agent())
            return self._web


@dataclass(frozen=True)
class Fetcher:
    """A callable that returns the bytes of an image.

    URIs may be paths, file:, http(s):, s3:, gs:, az:, azfs:, hdfs: or data:. Without ``allow_private_addresses``,
    http(s) to private addresses is refused. The fetcher is pickled to the workers; connections are opened there.
    """

    allow_private_addresses: bool = False
    retry_policy: RetryPolicy = RetryPolicy()
    clients: Clients = field(default_factory=Clients, compare=False, repr=False)

    def __call__(self, location: Location) -> bytes:
        """Return the bytes of an image.

        Raises:
            OSError: if they can't be read. From a server or an object store it is a FetchError, which holds the number
                of attempts and whether a later run may succeed.
            ValueError: if the image is empty or larger than ``MAX_FILE_BYTES``, if the URI is invalid, or if an
                archive or Parquet file has changed since it was listed.
            RunStopped: if the client for this kind of URI is not installed, or has no valid credentials.
        """
        try:
            content = self._content(location)
        except NoClientError as error:
            # Else every image of this kind would fail the same way, and be skipped until a run with --retry-errors.
            raise RunStopped(f"stopped: {error}; then run the same command again to resume") from error
        if not content:
            raise EmptyFileError("the file is empty: replace it")
        return content

    def _content(self, location: Location) -> bytes:
        if isinstance(location, Member):
            return self._read_member(location)
        if isinstance(location, ImageCell):
            return self.clients.containers.read_cell(location, MAX_FILE_BYTES, self.retry_policy)
        return self._read_uri(location)

    def _read_uri(self, uri: str) -> bytes:
        scheme = scheme_of(uri)
        if scheme == LOCAL:
            return read_file(path_of(uri))
        if scheme == DATA:
            return decode_data(uri)
        if scheme in HTTP_SCHEMES:
            web = self.clients.web(self.allow_private_addresses)
            return self.retry_policy.call(lambda end: web.read(uri, MAX_FILE_BYTES, end))
        if scheme in OBJECT_STORE_SCHEMES:
            store = self.clients.stores.get(scheme)
            return self.retry_policy.call(lambda end: store.read(uri, MAX_FILE_BYTES, end))
        raise ValueError(
            f"{scheme}:// can't be fetched: give a path, http(s):, data:, or {', '.join(OBJECT_STORE_SCHEMES)}"
        )

    def _read_member(self, member: Member) -> bytes:
        if member.size > MAX_FILE_BYTES:
            raise too_large(MAX_FILE_BYTES)
        return self.clients.containers.read_member(member, self.retry_policy) if member.size else b""


def read_file(path: str) -> bytes:
    """Return the content of a local file.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is a named pipe, or larger than ``MAX_FILE_BYTES``.
    """
    if "\0" not in path and stat.S_ISFIFO(os.stat(path).st_mode):
        # open() would block until another process writes to the pipe.
        raise ValueError("this is a named pipe: give a regular file")
    with open(path, "rb") as file:
        # The size is checked on what was read: for a device or a growing file, stat reports another size.
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise too_large(MAX_FILE_BYTES)
    return content


def decode_data(uri: str) -> bytes:
    """Return the content of a data: URI, base64 or percent-encoded.

    Raises:
        ValueError: if it has more than ``MAX_DATA_URI`` characters, no valid
            ``data:[TYPE][;base64]`` before a comma, or broken base64.
    """
    if len(uri) > MAX_DATA_URI:
        raise ValueError(f"the data: URI has more than {MAX_DATA_URI >> 20} Mi characters: save the picture as a file")
    head = _DATA.match(uri)
    if not head:
        raise ValueError("this data: URI has no valid head: write data:[TYPE][;base64],CONTENT")
    content = unquote_to_bytes(uri[head.end() :])
    if not head[1]:
        return content
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the base64 of this data: URI is broken: {error}; encode it again") from error


def user_agent() -> str:
    """Return the User-Agent header for HTTP requests: ``moondream-beam/VERSION``, or without the version if unknown."""
    try:
        return f"{PROJECT}/{version(PROJECT)}"
    except PackageNotFoundError:
        return PROJECT
