"""The protocol of object-store clients, and one client per store and process.

Beam's own file systems would make a client for every file that is opened.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from ..retry import RANGE_NOT_SATISFIABLE, FetchError, RetryPolicy
from ..uris import scheme_of

# By scheme: the module of this folder, the package that it imports, and what pip installs for it.
CLIENTS = {
    "s3": ("s3", "boto3", "moondream-beam[aws]"),
    "gs": ("gcs", "google.cloud.storage", "moondream-beam[gcp]"),
    "az": ("azure", "azure.storage.blob", "moondream-beam[azure]"),
    "azfs": ("azure", "azure.storage.blob", "moondream-beam[azure]"),
    "hdfs": ("hdfs", "pyarrow.fs", "pyarrow"),
    "hf": ("hub", "huggingface_hub", "huggingface_hub"),
}
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 30.0
# More than the threads that load pictures.
MAX_CONNECTIONS = 16
CHUNK_BYTES = 1 << 20


# The position of the first byte and the number of bytes, at least 1; None means the whole object.
ByteRange = tuple[int, int] | None


class NoClientError(RuntimeError):
    """No object of a store can be read: its client is not installed, has no credentials or account, or no server."""


class Entry(NamedTuple):
    """An object in a store, or a folder, whose URI ends with a slash."""

    uri: str
    is_folder: bool


class Page(NamedTuple):
    """A part of a listing. ``next_token``: the ``page_token`` for the next page, None on the last page."""

    entries: list[Entry]
    next_token: Any = None


class Store(Protocol):
    """The client of one kind of object store. Threads may share it."""

    def read(self, uri: str, max_bytes: int, deadline: float, byte_range: ByteRange = None) -> bytes:
        """Return the content of an object, or a range of it, which ends early at the end of the object.

        Args:
            deadline: on the clock of ``time.monotonic``.

        Raises:
            FetchError: if the object can't be read in time; ``RANGE_NOT_SATISFIABLE`` if it ends before the range.
            ValueError: if the content has more than ``max_bytes`` bytes.
        """

    def size(self, uri: str) -> int:
        """Return the length of an object in bytes.

        Raises:
            FetchError: if the object does not exist, or the store fails.
        """

    def list_page(self, prefix: str, recursive: bool, page_token: Any) -> Page:
        """Return one page of the entries whose URIs start with ``prefix``; objects and folders each ordered by name.

        Args:
            recursive: if False, all objects with the same next slash after the prefix are one entry, a folder.
            page_token: ``next_token`` of the page before, None for the first page.

        Raises:
            FetchError: if the store fails.
        """


class Stores:
    """The clients of one process, made at their first use. Threads may share them. A pickled copy has no clients."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Stores, ()

    def get(self, scheme: str) -> Store:
        """Return the client for a scheme of ``OBJECT_STORE_SCHEMES``.

        Raises:
            NoClientError: if the client is not installed or finds no credentials.
        """
        with self._lock:
            if scheme not in self._stores:
                self._stores[scheme] = open_store(scheme)
            return self._stores[scheme]

    def read_range(self, uri: str, start: int, size: int, retry_policy: RetryPolicy) -> bytes:
        """Return ``size`` bytes of an object from position ``start``: fewer at its end, none after it.

        Raises:
            FetchError: if all attempts fail.
            NoClientError: if the client is not installed or finds no credentials.
        """
        store = self.get(scheme_of(uri))
        try:
            return retry_policy.call(lambda deadline: store.read(uri, size, deadline, (start, size)))
        except FetchError as error:
            if error.fault.error != RANGE_NOT_SATISFIABLE:
                raise
            return b""

    def entries(self, scheme: str, prefix: str, recursive: bool, retry_policy: RetryPolicy) -> Iterator[Entry]:
        """Yield all entries whose URIs start with ``prefix``, as ``Store.list_page`` does.

        Raises:
            FetchError: if all attempts at a page fail.
            NoClientError: if the client is not installed or finds no credentials.
        """
        store, page_token = self.get(scheme), None

        def list_page(_: float) -> Page:
            return store.list_page(prefix, recursive, page_token)

        while True:
            page = retry_policy.call(list_page)
            yield from page.entries
            page_token = page.next_token
            if page_token is None:
                return


def open_store(scheme: str) -> Store:
    """Return a new client for a scheme of ``OBJECT_STORE_SCHEMES``.

    Raises:
        NoClientError: if the client is not installed or finds no credentials.
    """
    require_client(scheme)
    store: Store = importlib.import_module(f".{CLIENTS[scheme][0]}", __package__).open_store()
    return store


def pin_commit(uri: str) -> str:
    """Return a URI of the Hugging Face hub with the commit that its revision is now; see ``hub.pin_commit``."""
    pinned: str = importlib.import_module(".hub", __package__).pin_commit(uri)
    return pinned


def require_client(scheme: str) -> None:
    """Raise NoClientError if the package for a scheme of ``OBJECT_STORE_SCHEMES`` is not installed."""
    _, needed, extra = CLIENTS[scheme]
    try:
        importlib.import_module(needed)
    except ImportError as error:
        raise NoClientError(f"{scheme}:// needs {needed}: pip install '{extra}'") from error
