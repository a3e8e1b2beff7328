"""The official client of fal, on our transport: the only module that imports it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import fal_client
import httpx
from fal_client.client import USER_AGENT, BackupDomainTransport, Status, StorageSettings, SyncRequestHandle

from ..http.errors import CallError, NotSentError, PollError, ThrottledError, UnavailableError
from ..http.transport import Connections, StrictTransport

# Uploads are public to whoever has the link, and would stay for ever.
UPLOADS = StorageSettings(expires_in="1h")


class FalClient(fal_client.SyncClient):
    """``fal_client.SyncClient`` that makes each call once; what follows from a failure is for the caller to say."""

    @cached_property
    def policy(self) -> StrictTransport:
        """The transport, which still reaches fal's second domain where the first can't be connected to."""
        return StrictTransport(BackupDomainTransport(), "fal", self.key or "")

    @cached_property
    def _client(self) -> httpx.Client:
        headers = {"Authorization": self._auth.header_value, "User-Agent": USER_AGENT}
        # The key goes to fal and to nobody that fal may point to.
        return httpx.Client(transport=self.policy, headers=headers, follow_redirects=False)

    def _get_cdn_client(self) -> httpx.Client:
        token = self._token_manager.get_token()
        headers = {"Authorization": f"{token.token_type} {token.token}"}
        policy = StrictTransport(Connections(), "fal's storage", token.token)
        client = httpx.Client(transport=policy, headers=headers)
        self._storage.append(client)
        return client

    @cached_property
    def _storage(self) -> list[httpx.Client]:
        return []

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        for client in (self.__dict__.pop("_client", None), *self.__dict__.pop("_storage", ())):
            if client is not None:
                client.close()
        self.__dict__.pop("policy", None)

    def result_of(self, handle: SyncRequestHandle) -> tuple[Any, Mapping[str, str]]:
        """The result of a completed job, and the headers that came with it, which the official client drops.

        Raises:
            CallError: the job failed, or its result can't be had just now.
        """
        response = self._client.get(handle.response_url, extensions={"phase": "result"})
        try:
            return response.json(), response.headers
        except ValueError as error:
            raise PollError("fal gave a result that is no JSON") from error

    def is_completed(self, status: Status) -> bool:
        """Whether a job has ended, well or not."""
        return isinstance(status, fal_client.Completed)

    def upload_jpeg(self, jpeg: bytes) -> str:
        """Put a picture into fal's storage for an hour; its address.

        Raises:
            CallError: it is not there.
        """
        try:
            url = self.upload(jpeg, "image/jpeg", "picture.jpg", fallback_repository=[], lifecycle=UPLOADS)
        except ThrottledError:
            raise
        except CallError as error:
            # Nothing was paid for, whatever became of it.
            raise UnavailableError(f"no upload: {error}") from error
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise NotSentError(f"no upload: {type(error).__name__}") from error
        finally:
            for client in self.__dict__.pop("_storage", ()):
                client.close()
        if not isinstance(url, str) or not url.startswith("https://"):
            raise UnavailableError("fal's storage gave no address")
        return url
