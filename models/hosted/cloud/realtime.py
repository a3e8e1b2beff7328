"""Moondream Cloud's realtime API: one request per call, and each call in a thread of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import httpx

from ..dispatch.calls import CallService
from ..http.errors import LostAnswerError, RejectedError, ThrottledError
from ..http.images import data_uri
from ..http.transport import Connections, StrictTransport
from ..service import Item, JobResult, Reply
from .protocol import cost_usd, parse_reply, parse_tokens, request_body

API = "Moondream Cloud"
BASE_URL = "https://api.moondream.ai/v1"
# How long the end of a stream waits for its calls in flight, because their answers are billed.
CANCEL_WAIT_S = 10.0
# Error messages that the API sends with status 200 if it is overloaded.
OVERLOAD_MESSAGES = ("queue is full", "request timeout")


class RealtimeService(CallService):
    """The realtime API as a ``Service``: a job is one call. An answer that does not arrive can't be asked for later."""

    max_resubmits, deadline_s = 6, 1800.0

    def __init__(self, key: str, model: str, prices: tuple[float, float], threads: int) -> None:
        super().__init__(threads, "cloud", CANCEL_WAIT_S)
        self.key, self.model, self.prices = key, model, prices
        self.backend = f"cloud/{model}"
        self._client: httpx.Client | None = None

    def parse(self, answer: Any, items: Sequence[Item | None]) -> list[Reply | None]:
        """Return the reply for the one item. None stays None."""
        response = json.dumps({name: answer.get(name) for name in ("request_id", "metrics", "finish_reason")})
        return [parse_reply(item, answer, answer.get("metrics"), response) if item else None for item in items]

    def _prepare_call(self, item: Item) -> Callable[[], JobResult]:
        if self._client is None:
            transport = StrictTransport(Connections(), API, self.key)
            self._client = httpx.Client(transport=transport, headers={"X-Moondream-Auth": self.key})
        return partial(self._call, self._client, item)

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client:
            client.close()

    def _call(self, client: httpx.Client, item: Item) -> JobResult:
        """Return the API's answer about one item. Raise CallError or AccountError if there is none."""
        skill, body = request_body(item)
        body = {"image_url": item.url or data_uri(item.jpeg), "model": self.model, **body}
        if skill in ("caption", "query"):
            body["stream"] = False
        response = client.post(f"{BASE_URL}/{skill}", json=body)
        try:
            answer = response.json()
        except ValueError as error:
            raise LostAnswerError(f"{API} gave an answer that is not JSON") from error
        if not isinstance(answer, dict):
            raise LostAnswerError(f"{API} gave an answer that is not a JSON object")
        if reason := answer.get("error"):
            message = f"{API}: {reason}"
            if any(text in message.lower() for text in OVERLOAD_MESSAGES):
                raise ThrottledError(message)
            raise RejectedError(message, "error")
        tokens = parse_tokens(answer.get("metrics"))
        if tokens is None:
            return JobResult(answer, None, None)
        pair = (tokens.input, tokens.output)
        return JobResult(answer, float(sum(pair)), cost_usd(pair, self.prices))
