"""Moondream Cloud's Batch API: a file of many requests, half the price, answered within hours."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from ...tasks import Fault
from ..http.errors import AccountError, GoneError, LostAnswerError, PollError, UnavailableError, UnfitError, brief
from ..http.transport import Connections, StrictTransport
from ..service import Done, Item, Reply
from .protocol import BATCH_DEADLINE_S, cost_of, question_of, reply_to, tokens_of
from .realtime import API, BASE_URL

# Far below the 2 GB that the API takes: what a worker holds in memory, and one part of the upload.
MOST_BYTES = 40 << 20
FIRST_POLL_S, POLL_GROWTH, LONGEST_POLL_S = 5.0, 1.3, 60.0
BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
# The API's names for failures that are its own.
PASSING = ("processing_error",)


class CloudBatches:
    """The Batch API as the caller sees it: a job is a file of requests."""

    most_bytes, remembers, job_tries, deadline_s = MOST_BYTES, True, 2, BATCH_DEADLINE_S

    def __init__(self, key: str, model: str, prices: tuple[float, float], batch_size: int) -> None:
        self.key, self.model, self.prices, self.most_items = key, model, prices, batch_size
        self.backend = f"cloud-batch/{model}"
        self._client: httpx.Client | None = None

    def submit(self, items: Sequence[Item]) -> str:
        """Upload a file of requests and have it processed; the batch's id."""
        lines = "".join(json.dumps(line) + "\n" for line in self._lines(items)).encode()
        upload = self._ask("POST", "/batch?action=mpu-create", "upload")
        file, name = upload.get("fileId"), upload.get("uploadId")
        if not (isinstance(file, str) and isinstance(name, str) and BATCH_ID.fullmatch(file)):
            raise UnavailableError(f"{API} gave no place to upload to")
        params = {"action": "mpu-uploadpart", "uploadId": name, "partNumber": "1"}
        part = self._ask("PUT", f"/batch/{file}", "upload", params=params, content=lines)
        body = {"parts": [{"partNumber": 1, "etag": part.get("etag")}]}
        params = {"action": "mpu-complete", "uploadId": name}
        batch = self._ask("POST", f"/batch/{file}", "submit", params=params, json=body).get("id")
        if not isinstance(batch, str) or not BATCH_ID.fullmatch(batch):
            raise LostAnswerError(f"{API} named no batch")
        return batch

    def poll(self, job: str) -> Done | None:
        """How a batch is: None while it goes on."""
        if not BATCH_ID.fullmatch(job):
            raise GoneError("the journal names no batch")
        batch = self._ask("GET", f"/batch/{job}", "poll")
        status = batch.get("status")
        if status == "failed":
            raise UnavailableError(f"{API} failed at the batch: {brief(batch.get('error', ''))}")
        if status != "completed":
            return None
        answers = []
        for output in batch.get("outputs") or ():
            answers += list(self._download(output))
        usage = [tokens_of(answer.get("usage")) for answer in answers if answer.get("status") == "ok"]
        if not usage or None in usage:
            return Done(answers, None, None) if usage else Done(answers, 0.0, 0.0)
        pair = (sum(told.input for told in usage if told), sum(told.output for told in usage if told))
        return Done(answers, float(sum(pair)), cost_of(pair, self.prices))

    def cancel(self, job: str) -> bool:
        """A batch can't be taken back."""
        return False

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def read(self, answer: Any, items: Sequence[Item | None]) -> list[Reply]:
        """One reply for each line of a batch, found by the number of the line.

        Raises:
            UnfitError: a line is answered twice, or one that nobody sent.
        """
        lines: dict[int, dict[str, Any]] = {}
        for line in answer:
            place = line.get("id")
            place = int(place) if isinstance(place, str) and place.isdecimal() else None
            if place is None or place >= len(items) or place in lines:
                raise UnfitError(f"{API} answered lines of a batch that nobody sent, or one twice")
            lines[place] = line
        return [self._reply(item, lines.get(place)) for place, item in enumerate(items)]

    def pause(self, polls: int) -> float:
        """Seconds until the next poll."""
        return min(LONGEST_POLL_S, FIRST_POLL_S * POLL_GROWTH ** min(polls, 32))

    def _lines(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        for place, item in enumerate(items):
            skill, question = question_of(item)
            image = base64.b64encode(item.jpeg).decode()
            yield {"id": str(place), "skill": skill, "model": self.model, "image": image, **question}

    def _reply(self, item: Item | None, line: dict[str, Any] | None) -> Reply:
        if line is None:
            return Reply(Fault("NoAnswer", f"{API} left a line of the batch out", retryable=True))
        if line.get("status") == "ok" and isinstance(line.get("result"), dict):
            return reply_to(item, line["result"], line.get("usage"), json.dumps({"usage": line.get("usage")}))
        error = line.get("error")
        code = error.get("code") if isinstance(error, dict) else error
        message = error.get("message", code) if isinstance(error, dict) else error
        return Reply(Fault("Rejected", f"{brief(code)}: {brief(message)}", retryable=code in PASSING))

    def _download(self, output: Any) -> Iterator[dict[str, Any]]:
        url = output.get("url") if isinstance(output, dict) else None
        if not isinstance(url, str) or not url.startswith("https://"):
            raise PollError(f"{API} gave no address of the answers")
        # Without our key: the address says all, and leads elsewhere.
        with httpx.Client(transport=StrictTransport(Connections(), f"{API}'s storage", "")) as client:
            try:
                lines = client.get(url).content.split(b"\n")
            except AccountError as error:
                # The address holds for a while only, and may have just ended; the batch is asked for another.
                raise PollError(str(error)) from error
        # JSON may hold what other separators of lines would be.
        for line in filter(None, map(bytes.strip, lines)):
            try:
                answer = json.loads(line)
            except ValueError as error:
                raise PollError(f"{API} gave answers that are no JSON") from error
            if not isinstance(answer, dict):
                raise PollError(f"{API} gave answers that are no objects")
            yield answer

    def _ask(self, method: str, path: str, phase: str, **kwargs: Any) -> dict[str, Any]:
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
        if phase == "submit":
            raise LostAnswerError(f"{API} gave an answer that is no JSON")
        said = f"{API} gave an answer that is no JSON"
        raise PollError(said) if phase == "poll" else UnavailableError(said)
