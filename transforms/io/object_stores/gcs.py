"""Objects of Google Cloud Storage, or of an emulator at ``STORAGE_EMULATOR_HOST``."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud.storage import Client
from google.cloud.storage.exceptions import DataCorruption

from ..retry import connection_error, http_error, permission_denied, timed_out, too_large
from ..uris import split_bucket
from .base import CONNECT_TIMEOUT_S, MAX_CONNECTIONS, READ_TIMEOUT_S, ByteRange, Entry, NoClientError, Page

TIMEOUT = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)


class Gcs:
    """One client, signed in by the usual variables and roles."""

    def __init__(self) -> None:
        try:
            self.client: Any = Client()
        except (auth.GoogleAuthError, OSError) as error:
            raise NoClientError(f"gs:// can't sign in: {error}") from error
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS)
        # Otherwise it keeps ten connections, and threads make and drop the others.
        self.client._http.mount("https://", adapter)

    def read(self, uri: str, limit: int, end: float, part: ByteRange = None) -> bytes:
        """The content of an object."""
        bucket, name = split_bucket(uri)
        content = _Bounded(uri, limit, end)
        with _translate_errors(uri):
            blob = self.client.bucket(bucket).blob(name)
            span = {"start": part[0], "end": sum(part) - 1} if part else {}
            blob.download_to_file(content, timeout=TIMEOUT, retry=None, **span)
        return content.getvalue()

    def size(self, uri: str) -> int:
        """The length that the store tells."""
        bucket, name = split_bucket(uri)
        with _translate_errors(uri):
            blob = self.client.bucket(bucket).blob(name)
            blob.reload(timeout=TIMEOUT, retry=None)
            return int(blob.size)

    def page(self, prefix: str, deep: bool, token: Any) -> Page:
        """Up to 1,000 names."""
        bucket, name = split_bucket(prefix)
        with _translate_errors(prefix):
            found = self.client.list_blobs(
                bucket,
                prefix=name,
                delimiter=None if deep else "/",
                page_token=token,
                fields="items(name),prefixes,nextPageToken",
                timeout=TIMEOUT,
                retry=None,
            )
            blobs = list(next(found.pages, ()))
        objects = [Entry(f"gs://{bucket}/{blob.name}", False) for blob in blobs]
        folders = [Entry(f"gs://{bucket}/{folder}", True) for folder in sorted(found.prefixes)]
        return Page(objects + folders, found.next_page_token)


open_store = Gcs


class _Bounded(io.BytesIO):
    """Takes so many bytes until then, and no more: the client only knows how to fill a file."""

    def __init__(self, uri: str, limit: int, end: float) -> None:
        super().__init__()
        self.uri, self.limit, self.end = uri, limit, end

    def write(self, piece: Any) -> int:
        if self.tell() + len(piece) > self.limit:
            raise too_large(self.limit)
        if time.monotonic() > self.end:
            raise timed_out(f"{self.uri} comes too slowly")
        return super().write(piece)


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        raise http_error(int(error.code or 0), uri) from error
    except requests.Timeout as error:
        raise timed_out(f"{uri} does not answer in time") from error
    except (requests.RequestException, auth.TransportError, DataCorruption, ConnectionError) as error:
        raise connection_error(f"the connection for {uri} failed: {type(error).__name__}") from error
    except auth.GoogleAuthError as error:
        raise permission_denied(f"{uri}: {error}") from error
