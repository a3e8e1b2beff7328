"""Moondream Cloud's realtime API: one request per call, and each call in a thread of its own."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import monotonic
from typing import Any

import httpx

from ..http.errors import JobNotFoundError, LostAnswerError, RejectedError, ThrottledError
from ..http.images import data_uri
from ..http.transport import Connections, StrictTransport
from ..service import Item, JobResult, Reply
from .protocol import cost_usd, parse_reply, parse_tokens, request_body

API = "Moondream Cloud"
BASE_URL = "https://api.moondream.ai/v1"
POLL_S = 0.02
# How long the end of a stream waits for its calls in flight, because their answers are billed.
CANCEL_WAIT_S = 10.0
# Error messages that the API sends with status 200 if it is overloaded.
OVERLOAD_MESSAGES = ("queue is full", "request timeout")


class RealtimeService:
    """The realtime API as a ``Service``: a job is one call. An answer that does not arrive can't be asked for later."""

    max_items, max_bytes, keeps_results, max_resubmits, deadline_s = 1, 1 << 62, False, 6, 1800.0

    def __init__(self, key: str, model: str, prices: tuple[float, float], threads: int) -> None:
        self.key, self.model, self.prices, self.threads = key, model, prices, threads
        self.backend = f"cloud/{model}"
        self._calls: dict[str, Future[JobResult]] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._client: httpx.Client | None = None
        self._cancel_deadline: float | None = None

    def submit(self, items: Sequence[Item]) -> str:
        """Start a call for the one item, and return an id that is valid in this process only."""
        (item,) = items
        job = uuid.uuid4().hex
        with self._lock:
            if self._pool is None or self._client is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="cloud")
                self._client = httpx.Client(
                    transport=StrictTransport(Connections(), API, self.key), headers={"X-Moondream-Auth": self.key}
                )
                self._cancel_deadline = None
            self._calls[job] = self._pool.submit(self._call, self._client, item)
        return job

    def poll(self, job: str) -> JobResult | None:
        """Return the result of a call, or None while the call is running. Raise the call's error if it failed.

        Raises:
            JobNotFoundError: if another process started the call.
        """
        call = self._calls.get(job)
        if call is None:
            raise JobNotFoundError(f"call {job}: the process that waited for its answer has ended")
        if not call.done():
            return None
        with self._lock:
            self._calls.pop(job, None)
        return call.result()

    def cancel(self, job: str) -> bool:
        """Cancel a call and return True if it has not started. Otherwise wait for its end and return False.

        All calls that are cancelled at the end of a stream wait for at most CANCEL_WAIT_S seconds together.
        """
        call = self._calls.get(job)
        if call is None:
            return False
        if call.cancel():
            with self._lock:
                self._calls.pop(job, None)
            return True
        self._cancel_deadline = self._cancel_deadline or monotonic() + CANCEL_WAIT_S
        wait([call], timeout=max(0.0, self._cancel_deadline - monotonic()))
        return False

    def close(self) -> None:
        """Close the connections without a wait for calls in flight. The next call opens new ones."""
        with self._lock:
            pool, client, self._pool, self._client = self._pool, self._client, None, None
        if client:
            client.close()
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)

    def parse(self, answer: Any, items: Sequence[Item | None]) -> list[Reply | None]:
        """Return the reply for the one item. None stays None."""
        response = json.dumps({name: answer.get(name) for name in ("request_id", "metrics", "finish_reason")})
        return [parse_reply(item, answer, answer.get("metrics"), response) if item else None for item in items]

    def poll_delay(self, polls: int) -> float:
        """Return 0.02 seconds, because a poll makes no call."""
        return POLL_S

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
