"""Moondream at fal: the endpoint ``fal-ai/moondream/batched`` as an Annotator, over its queue."""

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
from ..budget import Budget
from ..dispatch.rate_limiter import Clock
from ..http.errors import (
    AccountError,
    CallError,
    GoneError,
    LostAnswerError,
    PollError,
    RejectedError,
    UnfitError,
)
from ..http.images import data_uri
from ..service import Done, Item, Reply

if TYPE_CHECKING:
    from .client import FalClient

log = logging.getLogger(__name__)

ENDPOINT = "fal-ai/moondream/batched"
MODELS = ("vikhyatk/moondream2", "fal-ai/moondream2-docci")
# The endpoint knows no caption, only prompts.
CAPTION_PROMPTS = {
    "short": "Describe this image in one short sentence.",
    "normal": DEFAULT_PROMPT,
    "long": "Describe this image in detail.",
}
BATCH_SIZE, MOST_BATCH_SIZE = 16, 32
MOST_BODY_BYTES = 8 << 20
# A picture of more bytes is uploaded to fal's storage first, where it lies for an hour.
INLINE_BYTES = 1 << 20
FIRST_POLL_S, POLL_GROWTH, LONGEST_POLL_S = 0.1, 1.4, 2.0
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Fal(HostedAnnotator):
    """Moondream 2 at fal, which is paid for. It answers captions and queries; the key is the worker's ``FAL_KEY``.

    ``model``: vikhyatk/moondream2 or fal-ai/moondream2-docci. ``price`` is what a billable unit costs in dollars, for
    ``max_cost`` and for the bill on the rows. ``webhook`` is told of each job by fal as well.

    Raises:
        ValueError: there is no such model, or a number makes no sense.
    """

    tasks: frozenset[type[Task]] = frozenset({Caption, Query})
    revision = ENDPOINT
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
            raise ValueError(f"model {model}: fal has {' and '.join(MODELS)}")
        if not 1 <= batch_size <= MOST_BATCH_SIZE:
            raise ValueError(f"batch size {batch_size}: fal takes 1 to {MOST_BATCH_SIZE} pictures a job")
        if price is not None and not 0 <= price < float("inf"):
            raise ValueError(f"price {price}: give the dollars that a billable unit costs")
        if max_cost is not None and not price:
            raise ValueError("max cost: give the price of a billable unit as well; fal.ai tells it for each endpoint")
        self.name, self._batch_size, self._price, self._webhook = model, batch_size, price, webhook

    def _service(self, key: str) -> FalQueue:
        from .client import FalClient

        return FalQueue(FalClient(key=key), self.name, self._batch_size, self._price, self._webhook)

    def _budget(self) -> Budget:
        return Budget(self.max_cost, self._price is not None, (1.0, self._price or 0.0))


class FalQueue:
    """The queue of the endpoint as the caller sees it."""

    most_bytes, remembers, job_tries, deadline_s = MOST_BODY_BYTES, True, 2, 1800.0

    def __init__(
        self, client: FalClient, model: str, batch_size: int, price: float | None, webhook: str | None
    ) -> None:
        self.client, self.model, self.most_items, self.price, self.webhook = client, model, batch_size, price, webhook
        self.backend = f"fal/{model}"

    def submit(self, items: Sequence[Item]) -> str:
        """Send a job; its id."""
        settings = items[0].settings
        arguments = {
            "model_id": self.model,
            "inputs": [{"prompt": prompt_of(item.task), "image_url": self._image_url(item)} for item in items],
            **settings._asdict(),
        }
        last = self.client.policy.last
        last.headers = None
        try:
            job = self.client.submit(ENDPOINT, arguments, webhook_url=self.webhook).request_id
        except (CallError, AccountError):
            raise
        except Exception as error:  # The client stumbles in many ways over an answer that is not as it should be.
            if last.headers is None:
                raise RejectedError(f"it can't be sent: {type(error).__name__}", "unsendable") from error
            job = last.headers.get("x-fal-request-id")
            if job is None:
                raise LostAnswerError(f"it was no answer of a queue: {type(error).__name__}") from error
        if not isinstance(job, str) or not JOB_ID.fullmatch(job):
            raise LostAnswerError("the answer names no job")
        return job

    def poll(self, job: str) -> Done | None:
        """How the job is: None while it goes on."""
        if not JOB_ID.fullmatch(job):
            raise GoneError("the journal names no job of fal's")
        handle = self.client.get_handle(ENDPOINT, job)
        try:
            status = handle.status(with_logs=log.isEnabledFor(logging.DEBUG))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise PollError(f"fal told no status: {type(error).__name__} {error}") from error
        for line in getattr(status, "logs", None) or ():
            log.debug("fal job %s: %s", job, self.client.policy.clean(line))
        if not self.client.is_completed(status):
            return None
        try:
            answer, headers = self.client.result_of(handle)
        except RejectedError as error:
            error.units = billed_units(self.client.policy.last.headers) or 0.0
            error.usd = error.units * (self.price or 0.0)
            raise
        units = billed_units(headers)
        return Done(answer, units, None if units is None or self.price is None else units * self.price)

    def cancel(self, job: str) -> bool:
        """Ask for its end, if it is still on its way; False where it had ended or nobody knows."""
        try:
            self.client.get_handle(ENDPOINT, job).cancel()
        except CallError:
            return False
        return True

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self.client.close()

    def read(self, answer: Any, items: Sequence[Item | None]) -> list[Reply]:
        """One reply for each place of a job.

        Raises:
            UnfitError: there are not as many outputs as questions.
        """
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(outputs, list) or len(outputs) != len(items):
            found = len(outputs) if isinstance(outputs, list) else "no"
            raise UnfitError(f"fal gave {found} outputs for {len(items)} pictures")
        timings, filenames = answer.get("timings"), answer.get("filenames")
        if not isinstance(filenames, list) or len(filenames) != len(items):
            filenames = [None] * len(items)
        partial = answer.get("partial") is True
        replies = []
        for output, filename in zip(outputs, filenames, strict=True):
            told = json.dumps({"partial": answer.get("partial"), "timings": timings, "filename": filename})
            replies.append(Reply(_result(output, partial), _timings(timings, len(items)), response=told))
        return replies

    def pause(self, polls: int) -> float:
        """Seconds until the next poll: more each time, and never the same for two workers."""
        return min(LONGEST_POLL_S, FIRST_POLL_S * POLL_GROWTH ** min(polls, 32)) * random.uniform(0.8, 1.2)

    def _image_url(self, item: Item) -> str:
        if item.url:
            return item.url
        if len(item.jpeg) <= INLINE_BYTES:
            return data_uri(item.jpeg)
        if item.uploaded is None:
            item.uploaded = self.client.upload_jpeg(item.jpeg)
        return item.uploaded


def prompt_of(task: Task) -> str:
    """What the endpoint is asked for a task."""
    return CAPTION_PROMPTS[task.length] if isinstance(task, Caption) else task.prompt


def billed_units(headers: Mapping[str, str]) -> float | None:
    """The billable units that an answer tells; None where it does not."""
    try:
        units = float(headers.get("x-fal-billable-units", ""))
    except ValueError:
        return None
    return units if math.isfinite(units) and units >= 0 else None


def _result(output: Any, partial: bool) -> Answer | Fault:
    if not isinstance(output, str) or not output.strip():
        return Fault("EmptyAnswer", "fal answered nothing", retryable=True)
    return Answer("length" if partial else "stop", text=output.strip())


def _timings(told: Any, places: int) -> Timings:
    """The equal part of a job's seconds: what fal calls preprocess, and all that it calls otherwise."""
    seconds = {
        name: float(value)
        for name, value in (told.items() if isinstance(told, dict) else ())
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0
    }
    before = seconds.pop("preprocess", 0.0)
    return Timings(encode_ms=1000 * before / places, generate_ms=1000 * sum(seconds.values()) / places)
