"""HTTP transport for hosted APIs: sends each request once, within a time limit, and raises the errors of errors.py.

The official clients retry on httpx errors and on some HTTP statuses. They don't retry on our errors, which therefore
reach the dispatcher at once.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import httpx

from ...web.backoff import parse_retry_after
from .errors import (
    AccountError,
    JobNotFoundError,
    LostAnswerError,
    NotSentError,
    PollError,
    RejectedError,
    ThrottledError,
    UnavailableError,
    one_line,
)

# submit: is billed. poll: status and cancel. result: the end of a job. upload: is free and may be repeated.
Phase = Literal["submit", "poll", "result", "upload"]

CONNECT_TIMEOUT_S = 10.0
# From the start of the request to the last byte of the answer.
TIMEOUT_S: Mapping[Phase, float] = {"submit": 120.0, "poll": 30.0, "result": 60.0, "upload": 120.0}
MAX_ANSWER_BYTES = 32 << 20
# A longer Retry-After would stop the worker for hours.
MAX_RETRY_AFTER_S = 600.0
# Statuses of a gateway that forwarded the request to the API and did not wait for the answer.
GATEWAY_TIMEOUTS = (504, 524)


class StrictTransport(httpx.BaseTransport):
    """Transport that sends each request once through ``inner`` and returns only complete, successful responses.

    ``api`` is the name of the API in messages. ``secret`` and its parts between colons are replaced in messages by
    ``***``. A request's phase is ``request.extensions["phase"]``, by default "submit" for POST and "poll" for the rest.
    ``timeouts``: seconds from the start of a request to the last byte of its answer; ``request.extensions["limit_s"]``
    may lower them.
    """

    def __init__(
        self, inner: httpx.BaseTransport, api: str, secret: str, timeouts: Mapping[Phase, float] = TIMEOUT_S
    ) -> None:
        self.inner, self.api, self.timeouts = inner, api, timeouts
        self._secrets = [part for part in (secret, *secret.split(":")) if len(part) > 3]
        # ``last.headers``: of the last response in this thread, which the official clients do not return.
        self.last = threading.local()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response with the whole body.

        Raises:
            CallError: if there is no response or its status is not 2xx.
            AccountError: if the API refuses the key, the balance or the endpoint.
        """
        phase: Phase = request.extensions.get("phase") or ("submit" if request.method == "POST" else "poll")
        timeout_s = min(self.timeouts[phase], request.extensions.get("limit_s", math.inf))
        timeouts = dict.fromkeys(("read", "write", "pool"), timeout_s)
        request.extensions["timeout"] = {**timeouts, "connect": CONNECT_TIMEOUT_S}
        request.headers["accept-encoding"] = "identity"
        try:
            response = self.inner.handle_request(request)
            try:
                body = _read(response, time.monotonic() + timeout_s)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout) as error:
            message = self.redact(f"{self.api} can't be reached: {type(error).__name__} {error}")
            raise (PollError if phase in ("poll", "result") else NotSentError)(message) from error
        except httpx.LocalProtocolError as error:
            # The message of this error quotes the invalid header, which may be the key.
            raise self._lost(phase, type(error).__name__) from None
        except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
            raise self._lost(phase, self.redact(f"{type(error).__name__} {error}")) from error
        self.last.headers = response.headers
        if not 200 <= response.status_code < 300:
            raise self._status_error(phase, response.status_code, response.headers, body)
        headers = _decoded_headers(response.headers)
        return httpx.Response(response.status_code, headers=headers, content=body, request=request)

    def close(self) -> None:
        """Close the connections."""
        self.inner.close()

    def redact(self, text: Any) -> str:
        """Return ``text`` on one line of limited length, with ``***`` in place of the key."""
        redacted = str(text)
        for secret in self._secrets:
            redacted = redacted.replace(secret, "***")
        return one_line(redacted)

    def _lost(self, phase: Phase, message: str) -> Exception:
        """Return the error for a request that was sent and whose response did not arrive; its text holds ``message``.

        ``submit`` gives a LostAnswerError, ``upload`` a NotSentError, and the other phases a PollError.
        """
        if phase == "submit":
            return LostAnswerError(message)
        if phase == "upload":
            return NotSentError(f"{self.api}: the upload failed: {message}")
        return PollError(f"{self.api}: the poll failed: {message}")

    def _status_error(self, phase: Phase, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """Return the error for a response whose status is not 2xx."""
        detail = _error_detail(body)
        text = _error_text(detail) or body[:200].decode(errors="replace")
        message = self.redact(f"{self.api} answered {status}: {text}")
        is_poll = phase in ("poll", "result")
        if status in (401, 402, 403):
            return AccountError(message)
        retry_after = parse_retry_after(headers.get("retry-after"), MAX_RETRY_AFTER_S)
        if status == 429 or (status == 503 and retry_after is not None):
            return (PollError if is_poll else ThrottledError)(message, retry_after)
        if status == 404 and phase != "upload":
            return JobNotFoundError(message) if is_poll else AccountError(message)
        if phase == "poll":
            return PollError(message)
        if phase == "upload":
            return UnavailableError(message)
        if status < 400 or status >= 499 or status in (408, 409):
            if phase == "result" and (status in (408, 409) or detail is None):
                # The status is of a gateway, not of the job: the API did not receive the request.
                return PollError(message)
            if status in GATEWAY_TIMEOUTS and detail is None:
                return LostAnswerError(message)
            hint = headers.get("x-fal-needs-retry", headers.get("x-fal-retryable", "")).lower()
            return UnavailableError(message, retryable=hint not in ("0", "false"))
        if phase == "result" and "still in progress" in message:
            return PollError(message)
        return self._rejection(detail, message, f"http_{status}")

    def _rejection(self, detail: Any, message: str, code: str) -> RejectedError:
        """Return the error for a rejected job, with the inputs that ``detail`` names by index or by URL."""
        faults = [fault for fault in detail if isinstance(fault, dict)] if isinstance(detail, list) else []
        by_index: dict[int, str] = {}
        by_input: dict[str, str] = {}
        for fault in faults:
            reason = self.redact(fault.get("msg", message))
            index = _input_index(fault.get("loc"))
            if index is not None:
                by_index[index] = reason
            elif isinstance(fault.get("input"), str):
                by_input[fault["input"]] = reason
        if faults:
            code = self.redact(faults[0].get("type", code))
        return RejectedError(message, code, by_index, by_input)


class Connections(httpx.BaseTransport):
    """Transport that uses the proxies named in the environment; ``httpx.HTTPTransport`` ignores them."""

    def __init__(self) -> None:
        self._client = httpx.Client(follow_redirects=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response, whose body must still be read from ``stream``."""
        return self._client.send(request, stream=True)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _read(response: httpx.Response, deadline: float) -> bytes:
    """Return the body, undecoded. Raise an httpx error above ``MAX_ANSWER_BYTES`` or after ``deadline`` (monotonic)."""
    body = bytearray()
    for chunk in response.stream:  # type: ignore[union-attr]
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise httpx.ReadError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer takes too long")
    return bytes(body)


def _decoded_headers(headers: httpx.Headers) -> dict[str, str]:
    """Return the headers without those that describe the encoding of the body, which is already read."""
    left_out = ("content-encoding", "transfer-encoding", "content-length")
    return {name: value for name, value in headers.items() if name.lower() not in left_out}


def _error_detail(body: bytes) -> Any:
    """Return what an API puts into ``detail`` (fal) or ``error`` (Moondream Cloud); None if the body has neither."""
    try:
        content = json.loads(body)
    except ValueError:
        return None
    return content.get("detail", content.get("error")) if isinstance(content, dict) else None


def _error_text(detail: Any) -> str:
    """Return the message in an error detail: a text, a dict with ``message``, or a list of dicts with ``msg``.

    Several ``msg`` are joined by "; ". None gives "", and anything else its ``str``.
    """
    if isinstance(detail, dict):
        return str(detail.get("message", detail))
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        return "; ".join(str(fault.get("msg", "")) for fault in detail if isinstance(fault, dict))
    return str(detail or "")


def _input_index(loc: Any) -> int | None:
    """Return 3 for a ``loc`` of ``["body", "inputs", 3, "image_url"]``; None if it names no input by its index."""
    if not isinstance(loc, list) or "inputs" not in loc[:-1]:
        return None
    index = loc[loc.index("inputs") + 1]
    return index if isinstance(index, int) and not isinstance(index, bool) else None
