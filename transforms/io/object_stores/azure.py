"""Blobs of Azure: ``az://CONTAINER/NAME`` of the account in the environment, ``azfs://ACCOUNT/CONTAINER/NAME``."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from azure.core import exceptions
from azure.storage.blob import BlobPrefix, BlobServiceClient

from ..retry import connection_error, http_error, permission_denied, timed_out, too_large
from ..uris import scheme_of
from .base import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ByteRange, Entry, NoClientError, Page

CONNECTION, ACCOUNT, KEY = "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"
PAGE_SIZE = 1000


class Azure:
    """A client for each account, signed in by a connection string, an account's key or the usual roles."""

    def __init__(self) -> None:
        self._services: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, uri: str, limit: int, end: float, part: ByteRange = None) -> bytes:
        """The content of a blob."""
        container, name, _ = self._find(uri)
        content = bytearray()
        span = {"offset": part[0], "length": part[1]} if part else {}
        with _translate_errors(uri):
            for piece in container.download_blob(name, max_concurrency=1, **span).chunks():
                content += piece
                if len(content) > limit:
                    raise too_large(limit)
                if time.monotonic() > end:
                    raise timed_out(f"{uri} comes too slowly")
        return bytes(content)

    def size(self, uri: str) -> int:
        """The length that the store tells."""
        container, name, _ = self._find(uri)
        with _translate_errors(uri):
            return int(container.get_blob_client(name).get_blob_properties().size)

    def page(self, prefix: str, deep: bool, token: Any) -> Page:
        """Up to 1,000 names."""
        container, name, root = self._find(prefix)
        with _translate_errors(prefix):
            if deep:
                found = container.list_blob_names(name_starts_with=name, results_per_page=PAGE_SIZE)
            else:
                found = container.walk_blobs(name_starts_with=name, delimiter="/", results_per_page=PAGE_SIZE)
            pages = found.by_page(token)
            entries = [self._entry(root, item) for item in next(pages, ())]
        return Page(entries, pages.continuation_token or None)

    def _entry(self, root: str, item: Any) -> Entry:
        name = item if isinstance(item, str) else item.name
        return Entry(f"{root}/{name}", isinstance(item, BlobPrefix))

    def _find(self, uri: str) -> tuple[Any, str, str]:
        """The container's client, the name in it, and the URI of the container."""
        account, rest = "", uri.split("://", 1)[1]
        if scheme_of(uri) == "azfs":
            account, _, rest = rest.partition("/")
        container, _, name = rest.partition("/")
        root = uri[: len(uri) - len(name)].rstrip("/")
        return self._service(account).get_container_client(container), name, root

    def _service(self, account: str) -> Any:
        with self._lock:
            if account not in self._services:
                self._services[account] = _sign_in(account)
            return self._services[account]


open_store = Azure


def _sign_in(account: str) -> Any:
    # Its own retries are not counted, and try what can't pass.
    options: dict[str, Any] = {
        "retry_total": 0,
        "connection_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
    }
    if connection := os.environ.get(CONNECTION):
        try:
            return BlobServiceClient.from_connection_string(connection, **options)
        except ValueError as error:
            raise NoClientError(f"az:// can't sign in by {CONNECTION}: {error}") from error
    account = account or os.environ.get(ACCOUNT, "")
    if not account:
        raise NoClientError(f"az:// needs {CONNECTION} or {ACCOUNT} in the environment")
    url = f"https://{account}.blob.core.windows.net"
    if key := os.environ.get(KEY):
        return BlobServiceClient(url, credential={"account_name": account, "account_key": key}, **options)
    from azure.identity import DefaultAzureCredential

    return BlobServiceClient(url, credential=DefaultAzureCredential(), **options)


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except exceptions.ClientAuthenticationError as error:
        if error.status_code is None:
            # Nobody was asked: there are no credentials, or none that can sign.
            raise NoClientError(f"az:// can't sign in: {type(error).__name__}; set {CONNECTION}") from error
        raise permission_denied(f"{uri}: {type(error).__name__}") from error
    except (exceptions.ServiceRequestTimeoutError, exceptions.ServiceResponseTimeoutError) as error:
        raise timed_out(f"{uri} does not answer in time") from error
    except (exceptions.AzureError, ConnectionError, TypeError) as error:
        # Of an answer without a message the client makes a TypeError.
        cause = error.__context__ if isinstance(error, TypeError) else error
        if isinstance(error, TypeError) and not isinstance(cause, exceptions.AzureError):
            raise
        # Without a status, or with one of success, the body broke off.
        if isinstance(cause, exceptions.HttpResponseError) and (cause.status_code or 0) >= 400:
            raise http_error(cause.status_code or 0, uri) from error
        raise connection_error(f"the connection for {uri} failed: {type(cause).__name__}") from error
