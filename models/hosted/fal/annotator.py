"""Moondream 2 at fal as an annotator: the endpoint ``fal-ai/moondream/batched``, through fal's job queue."""

from __future__ import annotations

import json
import logging
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...tasks import DEFAULT_PROMPT, Answer, Caption, Fault, Query, Task, Timings
from ..annotator import HostedAnnotator
from ..dispatch.rate_limiter import Clock
from ..http.errors import (
    AccountError,
    CallError,
    JobNotFoundError,
    LostAnswerError,
    MismatchedAnswerError,
    PollError,
    RejectedError,
)
from ..http.images import data_uri
from ..payment.budget import Budget
from ..service import EndedCalls, Item, JobResult, Reply

if TYPE_CHECKING:
    from .client import FalClient

log = logging.getLogger(__name__)

ENDPOINT = "fal-ai/moondream/batched"
MODELS = ("vikhyatk/moondream2", "fal-ai/moondream2-docci")
# The endpoint has no caption task, so a caption is sent as a prompt.
CAPTION_PROMPTS = {
    "short": "Describe this image in one short sentence.",
    "normal": DEFAULT_PROMPT,
    "long": "Describe this image in detail.",
}
BATCH_SIZE, MAX_BATCH_SIZE = 16, 32
MAX_BODY_BYTES = 8 << 20
# A larger JPEG is uploaded to fal's storage, which keeps the file for an hour.
MAX_INLINE_BYTES = 1 << 20
FIRST_POLL_S, POLL_GROWTH, MAX_POLL_S = 0.1, 1.4, 2.0
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Fal(HostedAnnotator):
    """Annotator that asks Moondream 2 at fal, which costs money. It supports captions and queries.

    The API key is in ``FAL_KEY`` of the worker's environment.

    Args:
        model: vikhyatk/moondream2 or fal-ai/moondream2-docci.
        concurrency: how many jobs are in flight at most in a process.
        batch_size: pictures per job, 1 to 32.
        price: dollars per billable unit; None leaves ``usd`` of the rows empty.
        max_cost: dollars that a process may spend; needs ``price``.
        send_urls: send the URL of a picture instead of its bytes if the URL is public.
        webhook: URL that fal calls when a job ends.

    Raises:
        ValueError: if the model is unknown, or a number is out of range.
    """

    tasks: frozenset[type[Task]] = frozenset({Caption, Query})
    _revision = ENDPOINT
    api, extra, module, key_variable = "fal", "fal", "fal_client", "FAL_KEY"
    key_page = "https://fal.ai/dashboard/keys"

    def __init__(
        self,
        model: str = MODELS[0],
        *,
        concurrency: int = 4,
        batch_size: int = BATCH_SIZE,
        price: float | None = None,
        max_cost: float | None = None,
        send_urls: bool = False,
        webhook: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(concurrency=concurrency, max_cost=max_cost, send_urls=send_urls, clock=clock)
        if model not in MODELS:
            raise ValueError(f"model {model}: fal has {' and '.join(MODELS)}; give one of them")
        if not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ValueError(f"batch size {batch_size}: give 1 to {MAX_BATCH_SIZE} pictures per job")
        if price is not None and not 0 <= price < float("inf"):
            raise ValueError(f"price {price}: give the dollars that a billable unit costs")
        if max_cost is not None and not price:
            raise ValueError(
                f"max cost {max_cost}: give the price of a billable unit (--price) as well; "
                f"fal.ai lists the price of {ENDPOINT}"
            )
        self._name, self._batch_size, self._price, self._webhook = model, batch_size, price, webhook

    def _service(self, key: str) -> FalQueue:
        # fal_client is installed only with the extra "fal".
        from .client import FalClient

        return FalQueue(FalClient(key=key), self.name, self._batch_size, self._price, self._webhook)

    def _budget(self) -> Budget:
        return Budget(self.max_cost, self._price is not None, (1.0, self._price or 0.0))


class FalQueue:
    """fal's job queue as a ``Service``: a job is a list of prompts and pictures with the same settings."""

    max_bytes, keeps_results, max_resubmits, deadline_s = MAX_BODY_BYTES, True, 2, 1800.0
    ended: EndedCalls | None = None

    def __init__(
        self, client: FalClient, model: str, batch_size: int, price: float | None, webhook: str | None
    ) -> None:
        self.client, self.model, self.max_items, self.price, self.webhook = client, model, batch_size, price, webhook
        self.backend = f"fal/{model}"

    def submit(self, items: Sequence[Item]) -> str:
        """Upload the large pictures, submit a job, and return fal's id of the job.

        Raises:
            RejectedError: if the official client can't send the job.
            LostAnswerError: if fal answered without a valid job id. The job may have been accepted.
        """
        settings = items[0].settings
        arguments = {
            "model_id": self.model,
            "inputs": [{"prompt": prompt_of(item.task), "image_url": self._image_url(item)} for item in items],
            **settings._asdict(),
        }
        last = self.client.transport.last
        last.headers = None
        try:
            job = self.client.submit(ENDPOINT, arguments, webhook_url=self.webhook).request_id
        except (CallError, AccountError):
            raise
        except Exception as error:  # The official client raises many types for an unexpected answer.
            if last.headers is None:
                raise RejectedError(
                    f"fal's client can't send the job ({type(error).__name__}): check --webhook", "unsendable"
                ) from error
            # fal has answered. The header names the job even if the body is damaged.
            job = last.headers.get("x-fal-request-id")
            if job is None:
                raise LostAnswerError(f"fal's answer has no job id ({type(error).__name__})") from error
        if not isinstance(job, str) or not JOB_ID.fullmatch(job):
            raise LostAnswerError("fal's answer has no valid job id")
        return job

    def poll(self, job: str) -> JobResult | None:
        """Return the result of a job, or None while the job is queued or running. Log its log lines at DEBUG.

        Raises:
            PollError: if fal answered without a valid status.
            JobNotFoundError: if fal does not know the job, or ``job`` is not a valid job id.
        """
        if not JOB_ID.fullmatch(job):
            raise JobNotFoundError("the journal has no valid id of a job at fal")
        handle = self.client.get_handle(ENDPOINT, job)
        try:
            status = handle.status(with_logs=log.isEnabledFor(logging.DEBUG))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise PollError(f"fal's answer has no valid status: {type(error).__name__} {error}") from error
        for line in getattr(status, "logs", None) or ():
            log.debug("fal job %s: %s", job, self.client.transport.redact(line))
        if not self.client.is_completed(status):
            return None
        try:
            answer, headers = self.client.result_of(handle)
        except RejectedError as error:
            error.units = billed_units(self.client.transport.last.headers) or 0.0
            error.usd = error.units * (self.price or 0.0)
            raise
        units = billed_units(headers)
        return JobResult(answer, units, None if units is None or self.price is None else units * self.price)

    def cancel(self, job: str) -> bool:
        """Cancel a job. Return True if fal accepted the request, False if the job has ended or the call failed."""
        try:
            self.client.get_handle(ENDPOINT, job).cancel()
        except CallError:
            return False
        return True

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        self.client.close()

    def parse(self, answer: Any, items: Sequence[Item | None]) -> list[Reply | None]:
        """Return a reply for each item, in order. An empty output becomes an ``EmptyAnswer`` fault.

        Raises:
            MismatchedAnswerError: if the number of outputs is not the number of items.
        """
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(outputs, list) or len(outputs) != len(items):
            count = len(outputs) if isinstance(outputs, list) else "no"
            raise MismatchedAnswerError(
                f"fal gave {count} outputs for {len(items)} pictures: run again with --retry-errors"
            )
        timings, filenames = answer.get("timings"), answer.get("filenames")
        if not isinstance(filenames, list) or len(filenames) != len(items):
            filenames = [None] * len(items)
        partial = answer.get("partial") is True
        replies: list[Reply | None] = []
        for output, filename in zip(outputs, filenames, strict=True):
            response = json.dumps({"partial": answer.get("partial"), "timings": timings, "filename": filename})
            replies.append(
                Reply(_parse_output(output, partial), _parse_timings(timings, len(items)), response=response)
            )
        return replies

    def poll_delay(self, polls: int) -> float:
        """Return 0.1 seconds after 0 polls, 40 % more after each, at most 2, all varied by up to 20 % at random."""
        return min(MAX_POLL_S, FIRST_POLL_S * POLL_GROWTH ** min(polls, 32)) * random.uniform(0.8, 1.2)

    def _image_url(self, item: Item) -> str:
        """Return the URL of an item's picture: its own, a data URI, or that of an upload, made at the first call."""
        if item.url:
            return item.url
        if len(item.jpeg) <= MAX_INLINE_BYTES:
            return data_uri(item.jpeg)
        if item.uploaded is None:
            item.uploaded = self.client.upload_jpeg(item.jpeg)
        return item.uploaded


def prompt_of(task: Task) -> str:
    """Return the prompt for a query, or for a caption of that length."""
    return CAPTION_PROMPTS[task.length] if isinstance(task, Caption) else task.prompt


def billed_units(headers: Mapping[str, str]) -> float | None:
    """Return ``x-fal-billable-units``; None if the header is missing, negative or not a finite number."""
    try:
        units = float(headers.get("x-fal-billable-units", ""))
    except ValueError:
        return None
    return units if math.isfinite(units) and units >= 0 else None


def _parse_output(output: Any, partial: bool) -> Answer | Fault:
    if not isinstance(output, str) or not output.strip():
        return Fault("EmptyAnswer", "fal returned an empty answer: run again with --retry-errors", retryable=True)
    return Answer("length" if partial else "stop", text=output.strip())


def _parse_timings(timings: Any, num_items: int) -> Timings:
    """Return an item's equal share of a job's times: ``preprocess`` as encoding, the sum of the rest as generation."""
    seconds = {
        name: float(value)
        for name, value in (timings.items() if isinstance(timings, dict) else ())
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0
    }
    encode_s = seconds.pop("preprocess", 0.0)
    return Timings(encode_ms=1000 * encode_s / num_items, generate_ms=1000 * sum(seconds.values()) / num_items)
