"""The transport below an API's HTTP client: each call once, within a time, and its end told by what it costs.

Our errors are none of those that the official clients wait and try again after, so that they pass through at once.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import httpx

from ...backoff import parse_retry_after
from .errors import (
    AccountError,
    GoneError,
    LostAnswerError,
    NotSentError,
    PollError,
    RejectedError,
    ThrottledError,
    UnavailableError,
    brief,
)

# submit: what is paid for. poll: status and cancel. result: how the job ended. upload: free, and may be done twice.
Phase = Literal["submit", "poll", "result", "upload"]

CONNECT_S = 10.0
# The whole of a call, from the first byte of the answer's wait to the last byte of its body.
CALL_S: Mapping[Phase, float] = {"submit": 120.0, "poll": 30.0, "result": 60.0, "upload": 120.0}
MOST_ANSWER_BYTES = 32 << 20
# A longer Retry-After would stop the worker for hours.
MAX_RETRY_AFTER_S = 600.0
# What a gateway says that passed a call on, and did not wait for the answer to the end.
GATEWAY_TIMEOUTS = (504, 524)


class StrictTransport(httpx.BaseTransport):
    """``inner`` sends; ``api`` is its name in messages, from which ``secret`` is removed.

    What a request is about stands in ``request.extensions["phase"]``; without it a POST is a submission and the rest
    are polls.
    """

    def __init__(self, inner: httpx.BaseTransport, api: str, secret: str) -> None:
        self.inner, self.api = inner, api
        self._secrets = [part for part in (secret, *secret.split(":")) if len(part) > 3]
        # Of this thread's last answer: what the client does not pass on.
        self.last = threading.local()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, whole.

        Raises:
            CallError: there is none, or it is no success; which of them tells what it costs.
            AccountError: the API refuses us altogether.
        """
        phase: Phase = request.extensions.get("phase") or ("submit" if request.method == "POST" else "poll")
        seconds = CALL_S[phase]
        request.extensions["timeout"] = {"connect": CONNECT_S, "read": seconds, "write": seconds, "pool": seconds}
        request.headers["accept-encoding"] = "identity"
        try:
            response = self.inner.handle_request(request)
            try:
                body = _read(response, time.monotonic() + seconds)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout) as error:
            message = self.clean(f"{self.api} can't be reached: {type(error).__name__} {error}")
            raise (PollError if phase in ("poll", "result") else NotSentError)(message) from error
        except httpx.LocalProtocolError as error:
            # Its words hold the header that can't be sent.
            raise self._lost(phase, type(error).__name__) from None
        except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
            raise self._lost(phase, self.clean(f"{type(error).__name__} {error}")) from error
        self.last.headers = response.headers
        if not 200 <= response.status_code < 300:
            raise self._refusal(phase, response.status_code, response.headers, body)
        return httpx.Response(response.status_code, headers=_plain(response.headers), content=body, request=request)

    def close(self) -> None:
        """Close the connections."""
        self.inner.close()

    def clean(self, text: Any) -> str:
        """Somebody else's words, brief, and without the key."""
        words = str(text)
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return brief(words)

    def _lost(self, phase: Phase, message: str) -> Exception:
        if phase == "submit":
            return LostAnswerError(message)
        if phase == "upload":
            return NotSentError(f"{self.api} took no upload: {message}")
        return PollError(f"{self.api} did not tell how a job is: {message}")

    def _refusal(self, phase: Phase, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        content = _json(body)
        detail = _detail(content)
        said = self.clean(f"{self.api} answered {status}: {_words(detail) or body[:200].decode(errors='replace')}")
        if status in (401, 402, 403):
            return AccountError(said)
        wait = parse_retry_after(headers.get("retry-after"), MAX_RETRY_AFTER_S)
        if status == 429 or (status == 503 and wait is not None):
            return (PollError if phase in ("poll", "result") else ThrottledError)(said, wait)
        if status == 404 and phase in ("poll", "result"):
            return GoneError(said)
        if phase == "poll":
            return PollError(said)
        if phase == "upload":
            return UnavailableError(said)
        if status == 404:
            return AccountError(said)
        hint = headers.get("x-fal-needs-retry", headers.get("x-fal-retryable", "")).lower()
        again = hint not in ("0", "false")
        if status < 400 or status >= 499 or status in (408, 409):
            if phase == "result" and (status in (408, 409) or detail is None):
                # Not how the job ended, but somebody in between who did not ask it.
                return PollError(said)
            if status in GATEWAY_TIMEOUTS and detail is None:
                # Somebody in between who did ask it, and did not hear the end.
                return LostAnswerError(said)
            return UnavailableError(said, again)
        if phase == "result" and "still in progress" in said:
            return PollError(said)
        return self._rejection(detail, said, f"http_{status}")

    def _rejection(self, detail: Any, said: str, kind: str) -> RejectedError:
        """Which inputs are named, by their place or by their text."""
        faults = [fault for fault in detail if isinstance(fault, dict)] if isinstance(detail, list) else []
        named: dict[int, str] = {}
        inputs: dict[str, str] = {}
        for fault in faults:
            message = self.clean(fault.get("msg", said))
            place = _place(fault.get("loc"))
            if place is not None:
                named[place] = message
            elif isinstance(fault.get("input"), str):
                inputs[fault["input"]] = message
        if faults:
            kind = self.clean(faults[0].get("type", kind))
        return RejectedError(said, kind, named, inputs)


class Connections(httpx.BaseTransport):
    """Connections that look for a proxy in the environment, which a bare transport does not."""

    def __init__(self) -> None:
        self._client = httpx.Client(follow_redirects=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of the answer is still to be read."""
        return self._client.send(request, stream=True)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _read(response: httpx.Response, deadline: float) -> bytes:
    """The body as it is, within size and time."""
    body = bytearray()
    for chunk in response.stream:  # type: ignore[union-attr]
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            raise httpx.ReadError(f"the answer is larger than {MOST_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer comes too slowly")
    return bytes(body)


def _plain(headers: httpx.Headers) -> dict[str, str]:
    left_out = ("content-encoding", "transfer-encoding", "content-length")
    return {name: value for name, value in headers.items() if name.lower() not in left_out}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _detail(content: Any) -> Any:
    """What an API says is wrong: ``detail`` at fal, ``error`` at Moondream Cloud; None where it is no such answer."""
    if not isinstance(content, dict):
        return None
    return content.get("detail", content.get("error"))


def _words(detail: Any) -> str:
    if isinstance(detail, dict):
        return str(detail.get("message", detail))
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return "; ".join(str(fault.get("msg", "")) for fault in detail if isinstance(fault, dict))
    return str(detail or "")


def _place(loc: Any) -> int | None:
    """The place in a job that ``["body", "inputs", 3, "image_url"]`` names."""
    if not isinstance(loc, list) or "inputs" not in loc[:-1]:
        return None
    place = loc[loc.index("inputs") + 1]
    return place if isinstance(place, int) and not isinstance(place, bool) else None
