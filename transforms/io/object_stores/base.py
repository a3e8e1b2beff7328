"""Clients of object stores, made once a process: Beam's own file systems make one for every file that is opened."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..retry import RANGE_NOT_SATISFIABLE, FetchError, RetryPolicy
from ..uris import scheme_of

# The module here that knows the scheme, what it needs that may be missing, and how to get it.
CLIENTS = {
    "s3": ("s3", "boto3", "moondream-beam[aws]"),
    "gs": ("gcs", "google.cloud.storage", "moondream-beam[gcp]"),
    "az": ("azure", "azure.storage.blob", "moondream-beam[azure]"),
    "azfs": ("azure", "azure.storage.blob", "moondream-beam[azure]"),
    "hdfs": ("hdfs", "pyarrow.fs", "pyarrow"),
}
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 30.0
# More than the threads that load.
MAX_CONNECTIONS = 16
CHUNK_BYTES = 1 << 20


# Where it begins, and how many bytes it has, at least one; None for all of it.
ByteRange = tuple[int, int] | None


class NoClientError(RuntimeError):
    """Nothing of this kind can be had here: its client is not installed, can't sign in, or knows nobody to ask."""


class Entry(NamedTuple):
    """Something that lies in a store: an object, or a folder, whose URI ends with a slash."""

    uri: str
    is_folder: bool


class Page(NamedTuple):
    """Some entries, and what brings the next ones; None at the end."""

    entries: list[Entry]
    next: Any = None


class Store(Protocol):
    """One kind of store. Threads may share it."""

    def read(self, uri: str, limit: int, end: float, part: ByteRange = None) -> bytes:
        """The content of an object, or a part of it; ``end`` is when to give up, on the clock of ``time.monotonic``.

        Raises:
            FetchError: it can't be had; ``RANGE_NOT_SATISFIABLE`` where the object ends before that part.
            ValueError: it has more than ``limit`` bytes.
        """

    def size(self, uri: str) -> int:
        """The bytes that an object has.

        Raises:
            FetchError: nobody can tell.
        """

    def page(self, prefix: str, deep: bool, token: Any) -> Page:
        """Objects whose URIs begin with ``prefix``, in the order of their names.

        Not ``deep``, all that share their next slash come as one folder.

        Raises:
            FetchError: the store can't be asked.
        """


class Stores:
    """The stores that a process has asked so far. Pickled, it is empty."""

    def __init__(self) -> None:
        self._stores: dict[str, Store] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Stores, ()

    def of(self, scheme: str) -> Store:
        """The store of a scheme.

        Raises:
            NoClientError: the client for it is not installed, or finds nothing to sign in with.
        """
        with self._lock:
            if scheme not in self._stores:
                self._stores[scheme] = open_store(scheme)
            return self._stores[scheme]

    def part(self, uri: str, start: int, size: int, retry_policy: RetryPolicy) -> bytes:
        """So many bytes of an object: fewer where it ends, none behind its end.

        Raises:
            FetchError: they can't be had.
            NoClientError: there is no client.
        """
        store = self.of(scheme_of(uri))
        try:
            return retry_policy.call(lambda end: store.read(uri, size, end, (start, size)))
        except FetchError as error:
            if error.fault.error != RANGE_NOT_SATISFIABLE:
                raise
            return b""

    def entries(self, scheme: str, prefix: str, deep: bool, retry_policy: RetryPolicy) -> Iterator[Entry]:
        """All entries below a prefix, a page at a time; each page is asked for as patiently as an object."""
        store, token = self.of(scheme), None
        while True:
            page = retry_policy.call(partial(_list_page, store, prefix, deep, token))
            yield from page.entries
            token = page.next
            if token is None:
                return


def _list_page(store: Store, prefix: str, deep: bool, token: Any, end: float) -> Page:
    return store.page(prefix, deep, token)


def open_store(scheme: str) -> Store:
    """A new client.

    Raises:
        NoClientError: it is not installed, or finds nothing to sign in with.
    """
    require_client(scheme)
    store: Store = importlib.import_module(f".{CLIENTS[scheme][0]}", __package__).open_store()
    return store


def require_client(scheme: str) -> None:
    """See that what a scheme needs is there.

    Raises:
        NoClientError: it is not installed.
    """
    _, needed, extra = CLIENTS[scheme]
    try:
        importlib.import_module(needed)
    except ImportError as error:
        raise NoClientError(f"{scheme}:// needs {needed}: pip install '{extra}'") from error
