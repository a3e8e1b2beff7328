"""Moondream Cloud's Batch API: a file of many requests, at half the price, answered within hours."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from ...tasks import Fault
from ..http.errors import (
    AccountError,
    JobNotFoundError,
    LostAnswerError,
    MismatchedAnswerError,
    PollError,
    UnavailableError,
    one_line,
)
from ..http.transport import Connections, Phase, StrictTransport
from ..service import EndedCalls, Item, JobResult, Reply
from .protocol import BATCH_DEADLINE_S, cost_usd, parse_reply, parse_tokens, request_body
from .realtime import API, BASE_URL

# The API accepts 2 GB. A worker holds the whole batch in memory and uploads it in one part.
MAX_BYTES = 40 << 20
FIRST_POLL_S, POLL_GROWTH, MAX_POLL_S = 5.0, 1.3, 60.0
BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# Error codes of single requests that may succeed later.
RETRYABLE_CODES = ("processing_error",)


class BatchService:
    """The Batch API as a ``Service``: a job is a file with one request per line."""

    max_bytes, keeps_results, max_resubmits, deadline_s = MAX_BYTES, True, 2, BATCH_DEADLINE_S
    ended: EndedCalls | None = None

    def __init__(self, key: str, model: str, prices: tuple[float, float], batch_size: int) -> None:
        self.key, self.model, self.prices, self.max_items = key, model, prices, batch_size
        self.backend = f"cloud-batch/{model}"
        self._client: httpx.Client | None = None

    def submit(self, items: Sequence[Item]) -> str:
        """Upload a file of requests, start its processing, and return the API's id of the batch.

        Raises:
            UnavailableError: if the upload failed, which is free.
            LostAnswerError: if the API gave no valid id. The batch may have been started.
        """
        lines = "".join(json.dumps(line) + "\n" for line in self._lines(items)).encode()
        upload = self._call("POST", "/batch?action=mpu-create", "upload")
        file, upload_id = upload.get("fileId"), upload.get("uploadId")
        if not (isinstance(file, str) and isinstance(upload_id, str) and BATCH_ID.fullmatch(file)):
            raise UnavailableError(f"{API} gave no valid id for an upload")
        params = {"action": "mpu-uploadpart", "uploadId": upload_id, "partNumber": "1"}
        part = self._call("PUT", f"/batch/{file}", "upload", params=params, content=lines)
        body = {"parts": [{"partNumber": 1, "etag": part.get("etag")}]}
        params = {"action": "mpu-complete", "uploadId": upload_id}
        batch = self._call("POST", f"/batch/{file}", "submit", params=params, json=body).get("id")
        if not isinstance(batch, str) or not BATCH_ID.fullmatch(batch):
            raise LostAnswerError(f"{API} gave no valid id of the batch")
        return batch

    def poll(self, job: str) -> JobResult | None:
        """Return the answers of a completed batch, or None while it is processed.

        Raises:
            UnavailableError: if the batch failed.
            JobNotFoundError: if the API does not know the batch, or ``job`` is not a valid id.
            PollError: if an answer can't be downloaded or is not JSON.
        """
        if not BATCH_ID.fullmatch(job):
            raise JobNotFoundError("the journal has no valid id of a batch at Moondream Cloud")
        batch = self._call("GET", f"/batch/{job}", "poll")
        status = batch.get("status")
        if status == "failed":
            raise UnavailableError(f"{API} failed to process the batch: {one_line(batch.get('error', ''))}")
        if status != "completed":
            return None
        answers = []
        for output in batch.get("outputs") or ():
            answers += list(self._download(output))
        usage = [parse_tokens(answer.get("usage")) for answer in answers if answer.get("status") == "ok"]
        if not usage or None in usage:
            return JobResult(answers, None, None) if usage else JobResult(answers, 0.0, 0.0)
        tokens = (sum(each.input for each in usage if each), sum(each.output for each in usage if each))
        return JobResult(answers, float(sum(tokens)), cost_usd(tokens, self.prices))

    def cancel(self, job: str) -> bool:
        """Return False, because the API can't cancel a batch."""
        return False

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def parse(self, answer: Any, items: Sequence[Item | None]) -> list[Reply | None]:
        """Return a reply for each item, found by its index in the ``id`` of a line. None stays None.

        A line that is missing becomes a ``NoAnswer`` fault, a line with an error ``Rejected``.

        Raises:
            MismatchedAnswerError: if an ``id`` is not the index of an item, or occurs twice.
        """
        lines: dict[int, dict[str, Any]] = {}
        for line in answer:
            text = line.get("id")
            index = int(text) if isinstance(text, str) and text.isdecimal() else None
            if index is None or index >= len(items) or index in lines:
                raise MismatchedAnswerError(
                    f"{API} answered a line that is not in the batch, or a line twice: run again with --retry-errors"
                )
            lines[index] = line
        return [self._reply(item, lines.get(index)) if item else None for index, item in enumerate(items)]

    def poll_delay(self, polls: int) -> float:
        """Return 5 seconds after 0 polls, and 30 % more after each, at most 60."""
        return min(MAX_POLL_S, FIRST_POLL_S * POLL_GROWTH ** min(polls, 32))

    def _lines(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        for index, item in enumerate(items):
            skill, body = request_body(item)
            image = base64.b64encode(item.jpeg).decode()
            yield {"id": str(index), "skill": skill, "model": self.model, "image": image, **body}

    def _reply(self, item: Item, line: dict[str, Any] | None) -> Reply:
        """Return the reply for an item from its line of the answers; None stands for a missing line."""
        if line is None:
            message = f"{API} did not answer this request of the batch: run again with --retry-errors"
            return Reply(Fault("NoAnswer", message, retryable=True))
        if line.get("status") == "ok" and isinstance(line.get("result"), dict):
            return parse_reply(item, line["result"], line.get("usage"), json.dumps({"usage": line.get("usage")}))
        error = line.get("error")
        code = error.get("code") if isinstance(error, dict) else error
        reason = error.get("message", code) if isinstance(error, dict) else error
        cure = (
            "run again with --retry-errors"
            if code in RETRYABLE_CODES
            else "correct the picture, or use another backend"
        )
        message = f"{one_line(code)}: {one_line(reason)}; {cure}"
        return Reply(Fault("Rejected", message, retryable=code in RETRYABLE_CODES))

    def _download(self, output: Any) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects in a file of answers. Raise PollError if the URL is not https or the file not JSON."""
        url = output.get("url") if isinstance(output, dict) else None
        if not isinstance(url, str) or not url.startswith("https://"):
            raise PollError(f"{API} gave no https URL of the answers; the poll is repeated")
        # The signed URL leads to another host, which must not get the key.
        with httpx.Client(transport=StrictTransport(Connections(), f"{API}'s storage", "")) as client:
            try:
                lines = client.get(url).content.split(b"\n")
            except AccountError as error:
                # The signed URL has expired. The next poll returns a new one.
                raise PollError(str(error)) from error
        # Only \n separates lines: str.splitlines would split at U+2028 inside a JSON text.
        for line in filter(None, map(bytes.strip, lines)):
            try:
                answer = json.loads(line)
            except ValueError as error:
                raise PollError(f"{API} gave answers that are not JSON; the fetch is repeated") from error
            if not isinstance(answer, dict):
                raise PollError(f"{API} gave answers that are not JSON objects; the fetch is repeated")
            yield answer

    def _call(self, method: str, path: str, phase: Phase, **kwargs: Any) -> dict[str, Any]:
        """Return the JSON object that the API answers. Raise the phase's CallError if the answer is anything else."""
        if self._client is None:
            transport = StrictTransport(Connections(), API, self.key)
            self._client = httpx.Client(transport=transport, headers={"X-Moondream-Auth": self.key})
        response = self._client.request(method, BASE_URL + path, extensions={"phase": phase}, **kwargs)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer
        errors = {"submit": LostAnswerError, "poll": PollError, "upload": UnavailableError}
        raise errors[phase](f"{API} gave an answer that is not a JSON object")
