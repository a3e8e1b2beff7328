"""Moondream Cloud, one picture a call: each call has a thread of its own, which the caller asks after."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from time import monotonic
from typing import Any

import httpx

from ..http.errors import GoneError, LostAnswerError, RejectedError, ThrottledError
from ..http.images import data_uri
from ..http.transport import Connections, StrictTransport
from ..service import Done, Item, Reply
from .protocol import cost_of, question_of, reply_to, tokens_of

API = "Moondream Cloud"
BASE_URL = "https://api.moondream.ai/v1"
POLL_S = 0.02
# How long calls under way are waited for when nobody listens any more: their answers are paid for.
LAST_WAIT_S = 10.0
# What a server says with status 200 when it has no time.
BUSY = ("queue is full", "request timeout")


class CloudCalls:
    """The realtime API as the caller sees it: a job is one call, and its answer is had with it or never."""

    most_items, most_bytes, remembers, job_tries, deadline_s = 1, 1 << 62, False, 6, 1800.0

    def __init__(self, key: str, model: str, prices: tuple[float, float], threads: int) -> None:
        self.key, self.model, self.prices, self.threads = key, model, prices, threads
        self.backend = f"cloud/{model}"
        self._calls: dict[str, Future[Done]] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._client: httpx.Client | None = None
        self._patient_until: float | None = None

    def submit(self, items: Sequence[Item]) -> str:
        """Begin a call; a name for it that means something in this process only."""
        (item,) = items
        name = uuid.uuid4().hex
        with self._lock:
            if self._pool is None or self._client is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="cloud")
                self._client = httpx.Client(
                    transport=StrictTransport(Connections(), API, self.key), headers={"X-Moondream-Auth": self.key}
                )
                self._patient_until = None
            self._calls[name] = self._pool.submit(self._call, self._client, item)
        return name

    def poll(self, job: str) -> Done | None:
        """The answer of a call; None while it is under way."""
        call = self._calls.get(job)
        if call is None:
            raise GoneError("the worker that waited for it is gone")
        if not call.done():
            return None
        with self._lock:
            self._calls.pop(job, None)
        return call.result()

    def cancel(self, job: str) -> bool:
        """Take back a call that has not begun; one that has is given a moment to end."""
        call = self._calls.get(job)
        if call is None:
            return False
        if call.cancel():
            with self._lock:
                self._calls.pop(job, None)
            return True
        self._patient_until = self._patient_until or monotonic() + LAST_WAIT_S
        wait([call], timeout=max(0.0, self._patient_until - monotonic()))
        return False

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            pool, client, self._pool, self._client = self._pool, self._client, None, None
        if client:
            client.close()
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)

    def read(self, answer: Any, items: Sequence[Item | None]) -> list[Reply]:
        """The reply."""
        told = {name: answer.get(name) for name in ("request_id", "metrics", "finish_reason")}
        return [reply_to(item, answer, answer.get("metrics"), json.dumps(told)) for item in items]

    def pause(self, polls: int) -> float:
        """Seconds until the next look, which costs nothing."""
        return POLL_S

    def _call(self, client: httpx.Client, item: Item) -> Done:
        skill, question = question_of(item)
        body = {"image_url": item.url or data_uri(item.jpeg), "model": self.model, **question}
        if skill in ("caption", "query"):
            body["stream"] = False
        response = client.post(f"{BASE_URL}/{skill}", json=body)
        try:
            answer = response.json()
        except ValueError as error:
            raise LostAnswerError(f"{API} gave an answer that is no JSON") from error
        if not isinstance(answer, dict):
            raise LostAnswerError(f"{API} gave an answer that is no object")
        if told := answer.get("error"):
            said = f"{API}: {told}"
            if any(words in said.lower() for words in BUSY):
                raise ThrottledError(said)
            raise RejectedError(said, "error")
        tokens = tokens_of(answer.get("metrics"))
        if tokens is None:
            return Done(answer, None, None)
        pair = (tokens.input, tokens.output)
        return Done(answer, float(sum(pair)), cost_of(pair, self.prices))
