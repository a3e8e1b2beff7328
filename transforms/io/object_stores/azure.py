"""Read and list Azure blobs: ``azfs://ACCOUNT/CONTAINER/NAME``; ``az://CONTAINER/NAME`` in the default account."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from azure.core import exceptions
from azure.storage.blob import BlobPrefix, BlobServiceClient

from ..retry import connection_error, http_error, join_chunks, permission_denied, range_ignored, timed_out
from ..uris import scheme_of
from .base import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ByteRange, Entry, NoClientError, Page

CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
ACCOUNT, KEY = "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"
PAGE_SIZE = 1000


class Azure:
    """A ``Store`` with a client per account, which authenticates by connection string, account key or role."""

    def __init__(self) -> None:
        self._services: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, uri: str, max_bytes: int, deadline: float, byte_range: ByteRange = None) -> bytes:
        """Return the content of a blob, as ``Store.read`` does."""
        container, name, _ = self._split(uri)
        span = {"offset": byte_range[0], "length": byte_range[1]} if byte_range else {}
        with _translate_errors(uri):
            chunks = container.download_blob(name, max_concurrency=1, **span).chunks()
            return join_chunks(chunks, uri, max_bytes, deadline)

    def size(self, uri: str) -> int:
        """Return the length of a blob in bytes."""
        container, name, _ = self._split(uri)
        with _translate_errors(uri):
            return int(container.get_blob_client(name).get_blob_properties().size)

    def list_page(self, prefix: str, recursive: bool, page_token: Any) -> Page:
        """Return up to 1,000 entries, as ``Store.list_page`` does."""
        container, name, root = self._split(prefix)
        with _translate_errors(prefix):
            if recursive:
                found = container.list_blob_names(name_starts_with=name, results_per_page=PAGE_SIZE)
            else:
                found = container.walk_blobs(name_starts_with=name, delimiter="/", results_per_page=PAGE_SIZE)
            pages = found.by_page(page_token)
            # A name is a str if recursive, otherwise an object with a name.
            items = [(getattr(item, "name", item), isinstance(item, BlobPrefix)) for item in next(pages, ())]
        return Page([Entry(f"{root}/{name}", is_folder) for name, is_folder in items], pages.continuation_token or None)

    def _split(self, uri: str) -> tuple[Any, str, str]:
        """Return the client of a URI's container, the blob's name in it, and the URI of the container."""
        account, rest = "", uri.split("://", 1)[1]
        if scheme_of(uri) == "azfs":
            account, _, rest = rest.partition("/")
        container, _, name = rest.partition("/")
        root = uri[: len(uri) - len(name)].rstrip("/")
        return self._service(account).get_container_client(container), name, root

    def _service(self, account: str) -> Any:
        with self._lock:
            if account not in self._services:
                self._services[account] = _connect(account)
            return self._services[account]


open_store = Azure


def _connect(account: str) -> Any:
    # RetryPolicy retries: it counts the attempts for the row, and skips errors that last.
    options: dict[str, Any] = {
        "retry_total": 0,
        "connection_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
    }
    if connection := os.environ.get(CONNECTION_STRING):
        try:
            return BlobServiceClient.from_connection_string(connection, **options)
        except ValueError as error:
            raise NoClientError(f"az:// can't sign in: {error}; correct {CONNECTION_STRING}") from error
    account = account or os.environ.get(ACCOUNT, "")
    if not account:
        raise NoClientError(f"az:// has no account: set {CONNECTION_STRING} or {ACCOUNT} in the environment")
    url = f"https://{account}.blob.core.windows.net"
    if key := os.environ.get(KEY):
        return BlobServiceClient(url, credential={"account_name": account, "account_key": key}, **options)
    from azure.identity import DefaultAzureCredential

    return BlobServiceClient(url, credential=DefaultAzureCredential(), **options)


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Raise errors of azure-storage-blob as FetchError or NoClientError."""
    try:
        yield
    except exceptions.ClientAuthenticationError as error:
        if error.status_code is None:
            # No request was sent: there are no credentials, or they can't sign a request.
            raise NoClientError(f"az:// can't sign in: {type(error).__name__}; set {CONNECTION_STRING}") from error
        raise permission_denied(f"{uri}: {type(error).__name__}; check the credentials") from error
    except ValueError as error:
        # The client raises this, without a class of its own, if a response does not have the range of its request.
        if "Content-Range" in str(error):
            raise range_ignored(uri) from error
        raise
    except (exceptions.ServiceRequestTimeoutError, exceptions.ServiceResponseTimeoutError) as error:
        raise timed_out(f"{uri} does not answer in time") from error
    except (exceptions.AzureError, ConnectionError, TypeError) as error:
        # The client raises a TypeError while it handles an error response without a message.
        cause = error.__context__ if isinstance(error, TypeError) else error
        if isinstance(error, TypeError) and not isinstance(cause, exceptions.AzureError):
            raise
        # With no status, or with one of success, the connection broke off within the body.
        if isinstance(cause, exceptions.HttpResponseError) and (cause.status_code or 0) >= 400:
            raise http_error(cause.status_code or 0, uri) from error
        raise connection_error(f"the connection for {uri} failed: {type(cause).__name__}") from error
