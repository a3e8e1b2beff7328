"""The official client of fal, with StrictTransport for its requests; the only module that imports ``fal_client``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import fal_client
import httpx
from fal_client.client import USER_AGENT, BackupDomainTransport, Status, StorageSettings, SyncRequestHandle

from ..http.errors import CallError, NotSentError, PollError, ThrottledError, UnavailableError
from ..http.transport import Connections, StrictTransport

# Anyone who has the URL can read an upload. By default fal would keep the file for ever.
UPLOAD_SETTINGS = StorageSettings(expires_in="1h")


class FalClient(fal_client.SyncClient):
    """``fal_client.SyncClient`` that sends each request once; the dispatcher decides about retries."""

    @cached_property
    def transport(self) -> StrictTransport:
        """The transport of all calls except uploads. It uses fal's second domain if the first is unreachable."""
        return StrictTransport(BackupDomainTransport(), "fal", self.key or "")

    @cached_property
    def _client(self) -> httpx.Client:
        headers = {"Authorization": self._auth.header_value, "User-Agent": USER_AGENT}
        # A redirect would send the key to another host.
        return httpx.Client(transport=self.transport, headers=headers, follow_redirects=False)

    def _get_cdn_client(self) -> httpx.Client:
        token = self._token_manager.get_token()
        headers = {"Authorization": f"{token.token_type} {token.token}"}
        transport = StrictTransport(Connections(), "fal's storage", token.token)
        client = httpx.Client(transport=transport, headers=headers)
        self._storage_clients.append(client)
        return client

    @cached_property
    def _storage_clients(self) -> list[httpx.Client]:
        return []

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        for client in (self.__dict__.pop("_client", None), *self.__dict__.pop("_storage_clients", ())):
            if client is not None:
                client.close()
        self.__dict__.pop("transport", None)

    def result_of(self, handle: SyncRequestHandle) -> tuple[Any, Mapping[str, str]]:
        """Return the JSON result of a completed job and its response headers, which the official client drops.

        Raises:
            CallError: if the job failed or the call for the result failed.
        """
        response = self._client.get(handle.response_url, extensions={"phase": "result"})
        try:
            return response.json(), response.headers
        except ValueError as error:
            raise PollError("fal gave a result that is not JSON; the fetch is repeated") from error

    def is_completed(self, status: Status) -> bool:
        """Return whether a job has ended, with success or with a failure."""
        return isinstance(status, fal_client.Completed)

    def upload_jpeg(self, jpeg: bytes) -> str:
        """Upload a picture to fal's storage for one hour and return its https URL. Uploads are free.

        Raises:
            ThrottledError: if the storage refuses uploads for now.
            UnavailableError: if the storage failed.
            NotSentError: if the official client failed.
        """
        try:
            url = self.upload(jpeg, "image/jpeg", "picture.jpg", fallback_repository=[], lifecycle=UPLOAD_SETTINGS)
        except ThrottledError:
            raise
        except CallError as error:
            # An upload is free. So its loss must not count as a lost answer, which is never sent again.
            raise UnavailableError(f"the upload of the picture to fal failed: {error}") from error
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise NotSentError(f"the upload of the picture to fal failed: {type(error).__name__}") from error
        finally:
            for client in self.__dict__.pop("_storage_clients", ()):
                client.close()
        if not isinstance(url, str) or not url.startswith("https://"):
            raise UnavailableError("fal's storage gave no https URL for the uploaded picture")
        return url
