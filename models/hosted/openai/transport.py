"""HTTP calls to one vision server, with the errors of such servers in place of those of hosted APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from ...web.backoff import parse_retry_after
from ..http.errors import (
    AccountError,
    CallError,
    LostAnswerError,
    NotSentError,
    RejectedError,
    ThrottledError,
    UnavailableError,
)
from ..http.transport import MAX_RETRY_AFTER_S, Phase, StrictTransport
from .protocol import error_message

# Statuses of a server that is not ready, or of a proxy whose server is not: 502 and Cloudflare's 521 to 523.
NOT_READY = (502, 503, 521, 522, 523)
# Statuses of a proxy that forwarded the request and did not wait for the answer.
GATEWAY_TIMEOUTS = (504, 520, 524)
# Calls that make no answer, such as the list of models.
LOOK_UP_S = 30.0


class TimedOutError(LostAnswerError):
    """A server gave no answer within the time limit. It may still work on the request."""


class BusyError(NotSentError):
    """A server, or a proxy before it, is not ready for the request."""


class ServerTransport(StrictTransport):
    """Transport to one server. A call raises these errors.

    - ``NotSentError``: the server is not reachable; ``BusyError``: it is not ready; ``ThrottledError``: it answers 429.
    - ``LostAnswerError``: no answer within the time limit, or the connection broke.
    - ``RejectedError``: it rejects the request, also with 403, which proxies use for pictures that they refuse.
    - ``UnavailableError``: it failed with 500 or another status. ``AccountError``: it refuses the key (401, 402), or
      knows no such model or path (404).
    """

    def _status_error(self, phase: Phase, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        message = self.redact(f"{self.api} answered {status}: {error_message(body)}")
        if status in (401, 402, 404):
            return AccountError(message)
        if status == 429:
            return ThrottledError(message, parse_retry_after(headers.get("retry-after"), MAX_RETRY_AFTER_S))
        if status in NOT_READY:
            return BusyError(message)
        if status == 408 or status in GATEWAY_TIMEOUTS:
            return LostAnswerError(message)
        if 400 <= status < 499:
            return RejectedError(message, f"http_{status}")
        return UnavailableError(message)


class ServerClient:
    """Calls to the server at ``url``, a base URL such as ``http://localhost:8000/v1``.

    ``timeout_s``: the time limit of a chat completion. ``key``: the API key; empty for none.
    """

    def __init__(self, url: str, key: str, timeout_s: float, max_connections: int) -> None:
        self.url, self.name, self.timeout_s = url, f"the server at {url}", timeout_s
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=max_connections)
        timeouts: dict[Phase, float] = {"submit": timeout_s, "poll": min(timeout_s, LOOK_UP_S)}
        transport = ServerTransport(_connections(url, limits), self.name, key, timeouts)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(transport=transport, headers=headers)

    def chat(self, body: bytes, limit_s: float | None = None) -> dict[str, Any]:
        """Return the JSON object of a chat completion, within the time limit or within ``limit_s`` if that is less.

        ``body``: the JSON of the request.

        Raises:
            TimedOutError: if there is no answer within that time.
            CallError: as ``ServerTransport``, and LostAnswerError if the answer is not a JSON object.
            AccountError: if the server refuses the key, or has no such model.
        """
        extensions = {"phase": "submit", **({"limit_s": limit_s} if limit_s else {})}
        headers = {"Content-Type": "application/json"}
        try:
            response = self._client.post(
                f"{self.url}/chat/completions", content=body, headers=headers, extensions=extensions
            )
        except LostAnswerError as error:
            if isinstance(error.__cause__, httpx.TimeoutException):
                raise TimedOutError(f"{self.name} gave no answer within {limit_s or self.timeout_s:g} s") from error
            raise
        return self._object(response)

    def models(self) -> dict[str, Any]:
        """Return the JSON object of ``/models``. Raise as ``chat`` does."""
        return self._object(self._client.get(f"{self.url}/models", extensions={"phase": "poll"}))

    def look_up(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path beside ``/v1``, such as ``/props``; empty if the server has none."""
        root = self.url.removesuffix("/v1")
        try:
            return self._object(self._client.get(root + path, extensions={"phase": "poll"}))
        except (CallError, AccountError):
            return {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise LostAnswerError(f"{self.name} gave an answer that is not a JSON object")
        return answer


def _connections(url: str, limits: httpx.Limits) -> httpx.BaseTransport:
    """Return a transport that uses the proxy that the environment names for a URL, if any.

    A client inside of another client would do the same, and take twice the CPU time for each request.
    """
    parts, proxies = urlsplit(url), getproxies()
    proxy = None if proxy_bypass(parts.netloc) else proxies.get(parts.scheme) or proxies.get("all")
    return httpx.HTTPTransport(limits=limits, proxy=proxy)
