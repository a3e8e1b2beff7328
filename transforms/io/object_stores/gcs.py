"""Read and list objects of Google Cloud Storage, or of an emulator at ``STORAGE_EMULATOR_HOST``."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Iterator
from typing import Any

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth
from google.cloud.storage import Client
from google.cloud.storage.exceptions import DataCorruption

from ..retry import connection_error, has_range, http_error, permission_denied, range_ignored, timed_out, too_large
from ..uris import split_bucket
from .base import CONNECT_TIMEOUT_S, MAX_CONNECTIONS, READ_TIMEOUT_S, ByteRange, Entry, NoClientError, Page

TIMEOUT = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)


class Gcs:
    """A ``Store`` that authenticates by the application default credentials."""

    def __init__(self) -> None:
        try:
            self.client: Any = Client()
        except (auth.GoogleAuthError, OSError) as error:
            raise NoClientError(f"gs:// can't sign in: {error}; run gcloud auth application-default login") from error
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS)
        # The default pool keeps 10 connections; further threads would open and close one for each request.
        self.client._http.mount("https://", adapter)
        self.client._http.hooks["response"].append(_check_range)

    def read(self, uri: str, max_bytes: int, deadline: float, byte_range: ByteRange = None) -> bytes:
        """Return the content of an object, as ``Store.read`` does."""
        bucket, name = split_bucket(uri)
        content = _BoundedBuffer(uri, max_bytes, deadline)
        with _translate_errors(uri):
            blob = self.client.bucket(bucket).blob(name)
            span = {"start": byte_range[0], "end": sum(byte_range) - 1} if byte_range else {}
            blob.download_to_file(content, timeout=TIMEOUT, retry=None, **span)
        return content.getvalue()

    def size(self, uri: str) -> int:
        """Return the length of an object in bytes."""
        bucket, name = split_bucket(uri)
        with _translate_errors(uri):
            blob = self.client.bucket(bucket).blob(name)
            blob.reload(timeout=TIMEOUT, retry=None)
            return int(blob.size)

    def list_page(self, prefix: str, recursive: bool, page_token: Any) -> Page:
        """Return up to 1,000 entries, as ``Store.list_page`` does."""
        bucket, name = split_bucket(prefix)
        with _translate_errors(prefix):
            found = self.client.list_blobs(
                bucket,
                prefix=name,
                delimiter=None if recursive else "/",
                page_token=page_token,
                fields="items(name),prefixes,nextPageToken",
                timeout=TIMEOUT,
                retry=None,
            )
            blobs = list(next(found.pages, ()))
        objects = [Entry(f"gs://{bucket}/{blob.name}", False) for blob in blobs]
        folders = [Entry(f"gs://{bucket}/{folder}", True) for folder in sorted(found.prefixes)]
        return Page(objects + folders, found.next_page_token)


open_store = Gcs


class _BoundedBuffer(io.BytesIO):
    """A buffer whose ``write`` raises ValueError beyond ``max_bytes`` bytes, and FetchError after ``deadline``."""

    def __init__(self, uri: str, max_bytes: int, deadline: float) -> None:
        super().__init__()
        self.uri, self.max_bytes, self.deadline = uri, max_bytes, deadline

    def write(self, chunk: Any) -> int:
        if self.tell() + len(chunk) > self.max_bytes:
            raise too_large(self.max_bytes)
        if time.monotonic() > self.deadline:
            raise timed_out(f"{self.uri} is sent too slowly")
        return super().write(chunk)


class _RangeIgnoredError(Exception):
    """The server has sent the whole object in place of a range."""


def _check_range(response: requests.Response, *_: Any, **__: Any) -> None:
    """Raise if a successful response does not have the range of its request. The client of Google does not check."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", str(response.request.headers.get("range", "")))
    if asked and response.ok:
        start, end, length = int(asked[1]), int(asked[2]), response.headers.get("Content-Length")
        if not has_range((start, end - start + 1), response.status_code, length):
            response.close()
            raise _RangeIgnoredError


@contextlib.contextmanager
def _translate_errors(uri: str) -> Iterator[None]:
    """Raise errors of google-cloud-storage as FetchError."""
    try:
        yield
    except _RangeIgnoredError as error:
        raise range_ignored(uri) from error
    except exceptions.GoogleAPICallError as error:
        raise http_error(int(error.code or 0), uri) from error
    except requests.Timeout as error:
        raise timed_out(f"{uri} does not answer in time") from error
    except (requests.RequestException, auth.TransportError, DataCorruption, ConnectionError) as error:
        raise connection_error(f"the connection for {uri} failed: {type(error).__name__}") from error
    except auth.GoogleAuthError as error:
        raise permission_denied(f"{uri}: {error}; check the credentials") from error
