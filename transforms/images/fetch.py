"""The bytes of a picture, from wherever it lies."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from ..core.errors import RunStopped
from ..core.records import Location
from ..io.containers.location import ImageCell, Member
from ..io.containers.reader import ContainerReader
from ..io.http.client import PROJECT, HttpClient
from ..io.object_stores.base import NoClientError, Stores
from ..io.retry import RetryPolicy, too_large
from ..io.uris import BUCKETS, DATA, LOCAL, WEB, path_of, scheme_of

# Larger files are refused: no photograph needs more, and many of them are open at once.
MAX_FILE_BYTES = 256 << 20
# A data: URI travels with its row, through every shuffle.
MAX_DATA_URI = 4 << 20
_DATA = re.compile(r"data:[^,;]*(?:;[^,;=]+=[^,;]*)*(;base64)?,", re.IGNORECASE)


class Clients:
    """The clients of one process: kept connections, signed in once. Pickled, there are none."""

    def __init__(self) -> None:
        self.stores = Stores()
        self.inside = ContainerReader(self.stores)
        self._web: HttpClient | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Clients, ()

    def web(self, allow_private_addresses: bool) -> HttpClient:
        """The client for http(s)."""
        with self._lock:
            if self._web is None:
                self._web = HttpClient(allow_private_addresses, user_agent())
            return self._web


@dataclass(frozen=True)
class Fetcher:
    """Gives the content behind a URI: a path, file:, http(s):, s3:, gs:, az:, azfs:, hdfs: or data:.

    It is pickled to the workers, and keeps its connections there. Unless ``allow_private_addresses``, http(s) reaches
    public addresses only.
    """

    allow_private_addresses: bool = False
    retry_policy: RetryPolicy = RetryPolicy()
    clients: Clients = field(default_factory=Clients, compare=False, repr=False)

    def __call__(self, location: Location) -> bytes:
        """The content.

        Raises:
            OSError: it can't be had; far away, a FetchError, which tells how often it was tried, and whether to again.
            ValueError: it is empty or larger than ``MAX_FILE_BYTES``, or the URI is none.
            StoppedError: no such thing can be fetched here: a client is not installed, or can't sign in.
        """
        try:
            content = self._content(location)
        except NoClientError as error:
            # All others of its kind would fail alike, and be done until somebody asks for --retry-errors.
            raise RunStopped(f"stopped: {error}; once that is cured the same command goes on") from error
        if not content:
            raise ValueError("the file is empty")
        return content

    def _content(self, location: Location) -> bytes:
        if isinstance(location, Member):
            return self._read_member(location)
        if isinstance(location, ImageCell):
            return self.clients.inside.read_cell(location, MAX_FILE_BYTES, self.retry_policy)
        return self._read_uri(location)

    def _read_uri(self, uri: str) -> bytes:
        scheme = scheme_of(uri)
        if scheme == LOCAL:
            return read_file(path_of(uri))
        if scheme == DATA:
            return decode_data(uri)
        if scheme in WEB:
            web = self.clients.web(self.allow_private_addresses)
            return self.retry_policy.call(lambda end: web.read(uri, MAX_FILE_BYTES, end))
        if scheme in BUCKETS:
            store = self.clients.stores.of(scheme)
            return self.retry_policy.call(lambda end: store.read(uri, MAX_FILE_BYTES, end))
        raise ValueError(f"{scheme}:// can't be fetched")

    def _read_member(self, member: Member) -> bytes:
        if member.size > MAX_FILE_BYTES:
            raise too_large(MAX_FILE_BYTES)
        return self.clients.inside.read_member(member, self.retry_policy) if member.size else b""


def read_file(path: str) -> bytes:
    """The content of a local file.

    Raises:
        OSError: it can't be read.
        ValueError: it is a named pipe, or larger than ``MAX_FILE_BYTES``.
    """
    if Path(path).is_fifo():
        # To open it would be to wait for somebody to write into it.
        raise ValueError("this is a named pipe")
    with open(path, "rb") as file:
        # Read, not trusted to stat: a pipe or a growing file has no size to ask for.
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise too_large(MAX_FILE_BYTES)
    return content


def decode_data(uri: str) -> bytes:
    """The content of a data: URI.

    Raises:
        ValueError: it has more than ``MAX_DATA_URI`` characters, or is not well formed.
    """
    if len(uri) > MAX_DATA_URI:
        raise ValueError(f"the data: URI has more than {MAX_DATA_URI >> 20} Mi characters")
    head = _DATA.match(uri)
    if not head:
        raise ValueError("this data: URI has no head that can be read")
    content = unquote_to_bytes(uri[head.end() :])
    if not head[1]:
        return content
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the base64 of this data: URI is broken: {error}") from error


def user_agent() -> str:
    """Who we are, for the logs and rules of those whose pictures we ask for."""
    try:
        return f"{PROJECT}/{version(PROJECT)}"
    except PackageNotFoundError:
        return PROJECT
