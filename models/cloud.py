"""Moondream Cloud as an Annotator: captions, queries, boxes and points, one call for each, or many in a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .hosted.annotator import HostedAnnotator
from .hosted.budget import Budget
from .hosted.governor import Clock
from .hosted.service import Item, Reply, Service
from .tasks import Answer, Box, Caption, Detect, Fault, Point, Query, Spot, Task, Timings, Tokens

MODELS = ("moondream3.1-9B-A2B", "moondream3-preview")
# Dollars for a million tokens in and out, of moondream3.1-9B-A2B; https://moondream.ai/pricing of 2026-10-07.
PRICES = (0.30, 1.00)
# Of the 100,000 that a file may have.
BATCH_SIZE, MOST_BATCH_SIZE = 1000, 100_000
# How long a batch is waited for.
BATCH_DEADLINE_S = 48 * 3600.0
# What a picture is taken to use where the API does not tell: the average of the example in the docs of its batches.
USUAL_TOKENS = (1500, 50)


class MoondreamCloud(HostedAnnotator):
    """Moondream 3 at Moondream Cloud, which is paid for by the token; the key is the worker's ``MOONDREAM_API_KEY``.

    ``model`` is the API's name for it. ``prices`` are the dollars for a million tokens in and out. ``batch`` asks its
    Batch API: half of these prices, ``batch_size`` requests a file, and hours instead of seconds.

    Raises:
        ValueError: a number makes no sense.
    """

    tasks: frozenset[type[Task]] = frozenset({Caption, Query, Detect, Point})
    api, extra, module, key_variable = "Moondream Cloud", "cloud", "httpx", "MOONDREAM_API_KEY"
    key_page = "https://moondream.ai/c/cloud/api-keys"

    def __init__(
        self,
        model: str = MODELS[0],
        *,
        concurrency: int = 8,
        batch: bool = False,
        batch_size: int = BATCH_SIZE,
        prices: tuple[float, float] = PRICES,
        max_cost: float | None = None,
        send_urls: bool = False,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(concurrency=concurrency, max_cost=max_cost, send_urls=send_urls, clock=clock)
        if not model.strip():
            raise ValueError("model: give the API's name for it, such as " + " or ".join(MODELS))
        if len(prices) != 2 or not all(0 <= price < float("inf") for price in prices):
            raise ValueError(f"prices {prices}: give the dollars for a million tokens in, and for a million out")
        if not 1 <= batch_size <= MOST_BATCH_SIZE:
            raise ValueError(f"batch size {batch_size}: a batch takes 1 to {MOST_BATCH_SIZE} requests")
        if batch and send_urls:
            raise ValueError("send urls: a batch holds pictures, not addresses")
        self.name, self.batch, self._batch_size = model, batch, batch_size
        self.revision = "api.moondream.ai/v1"
        self._prices = (prices[0] / 2, prices[1] / 2) if batch else prices

    def _service(self, key: str) -> Service:
        from .hosted.batches import CloudBatches
        from .hosted.calls import CloudCalls

        if self.batch:
            return CloudBatches(key, self.name, self._prices, self._batch_size)
        return CloudCalls(key, self.name, self._prices, self.concurrency)

    def _budget(self) -> Budget:
        return Budget(self.max_cost, True, (float(sum(USUAL_TOKENS)), cost_of(USUAL_TOKENS, self._prices)))


def question_of(item: Item) -> tuple[str, dict[str, Any]]:
    """The skill that a task needs, and its part of the request: all but the picture."""
    drawn = item.settings
    settings: dict[str, Any] = {"temperature": drawn.temperature, "top_p": drawn.top_p, "max_tokens": drawn.max_tokens}
    match item.task:
        case Caption(length):
            return "caption", {"length": length, "settings": settings}
        case Query(question):
            return "query", {"question": question, "settings": settings}
        case Detect(thing, most) | Point(thing, most):
            return item.task.name, {"object": thing, "settings": {"max_objects": most}}


def tokens_of(told: Any) -> Tokens | None:
    """The tokens that an answer tells; None where it does not."""
    counts = [_count(told.get(name)) if isinstance(told, dict) else -1 for name in ("input_tokens", "output_tokens")]
    return Tokens(*counts) if min(counts) >= 0 else None


def cost_of(tokens: tuple[int, int], prices: tuple[float, float]) -> float:
    """Dollars."""
    return (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6


def reply_to(item: Item | None, answer: Mapping[str, Any], metrics: Any, told: str | None) -> Reply:
    """One answer, understood; a fault where it can't be."""
    tokens = tokens_of(metrics) or Tokens()
    timings = Timings(encode_ms=_ms(metrics, "prefill_time_ms"), generate_ms=_ms(metrics, "decode_time_ms"))
    return Reply(_result(item, answer), timings, tokens, told)


def _result(item: Item | None, answer: Mapping[str, Any]) -> Answer | Fault:
    if item is None:
        return Fault("Absent", "nobody asked")
    try:
        match item.task:
            case Detect(_, most):
                boxes = [Box(*(_share(box[name]) for name in Box._fields)) for box in answer["objects"][:most]]
                return Answer("stop", objects=tuple(_upright(box) for box in boxes))
            case Point(_, most):
                spots = [Spot(_share(place["x"]), _share(place["y"])) for place in answer["points"][:most]]
                return Answer("stop", points=tuple(spots))
            case Caption() | Query():
                text = answer["caption" if isinstance(item.task, Caption) else "answer"]
                if not isinstance(text, str) or not text.strip():
                    return Fault("EmptyAnswer", "Moondream Cloud answered nothing", retryable=True)
                return Answer("length" if answer.get("finish_reason") == "length" else "stop", text=text.strip())
    except (LookupError, TypeError, ValueError) as error:
        return Fault("Unfit", f"Moondream Cloud gave no {item.task.name}: {type(error).__name__}", retryable=True)


def _share(number: Any) -> float:
    """A fraction of a side, clamped to it."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(number)
    return min(1.0, max(0.0, float(number)))


def _upright(box: Box) -> Box:
    if box.x_min > box.x_max or box.y_min > box.y_max:
        raise ValueError(box)
    return box


def _count(number: Any) -> int:
    return number if isinstance(number, int) and not isinstance(number, bool) else -1


def _ms(metrics: Any, name: str) -> float:
    value = metrics.get(name, 0.0) if isinstance(metrics, dict) else 0.0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) and value >= 0 else 0.0
