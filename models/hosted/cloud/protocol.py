"""The protocol of Moondream Cloud: the body of a request, the content of an answer, and the cost of its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...tasks import Answer, Box, Caption, Detect, Fault, Point, Query, Spot, Timings, Tokens
from ..service import Item, Reply

# Dollars for a million tokens in and out, of moondream3.1-9B-A2B; https://moondream.ai/pricing of 2026-10-07.
PRICES = (0.30, 1.00)
BATCH_DEADLINE_S = 48 * 3600.0
# Tokens in and out assumed for a picture if the API reports none: the mean of the example in the docs of its batches.
USUAL_TOKENS = (1500, 50)


def request_body(item: Item) -> tuple[str, dict[str, Any]]:
    """Return the API's skill for an item's task, and the JSON body of its request without picture and model."""
    drawn = item.settings
    settings: dict[str, Any] = {"temperature": drawn.temperature, "top_p": drawn.top_p, "max_tokens": drawn.max_tokens}
    match item.task:
        case Caption(length):
            return "caption", {"length": length, "settings": settings}
        case Query(question):
            return "query", {"question": question, "settings": settings}
        case Detect(name, max_objects) | Point(name, max_objects):
            return item.task.name, {"object": name, "settings": {"max_objects": max_objects}}


def parse_tokens(usage: Any) -> Tokens | None:
    """Return the ``input_tokens`` and ``output_tokens`` of an answer; None if either is not a count."""
    counts = [_count(usage.get(name)) if isinstance(usage, dict) else -1 for name in ("input_tokens", "output_tokens")]
    return Tokens(*counts) if min(counts) >= 0 else None


def cost_usd(tokens: tuple[int, int], prices: tuple[float, float]) -> float:
    """Return the dollars for (input, output) tokens at ``prices`` per million of each."""
    return (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6


def parse_reply(item: Item, answer: Mapping[str, Any], metrics: Any, response: str | None) -> Reply:
    """Return the reply for an item; its result is a fault if ``answer`` is empty or does not fit the item's task.

    ``metrics``: tokens and times as the API reports them. ``response``: what becomes ``Reply.response``.
    """
    tokens = parse_tokens(metrics) or Tokens()
    timings = Timings(encode_ms=_ms(metrics, "prefill_time_ms"), generate_ms=_ms(metrics, "decode_time_ms"))
    return Reply(_parse_result(item, answer), timings, tokens, response)


def _parse_result(item: Item, answer: Mapping[str, Any]) -> Answer | Fault:
    try:
        match item.task:
            case Detect(_, max_objects):
                boxes = [
                    Box(*(_fraction(box[name]) for name in Box._fields)) for box in answer["objects"][:max_objects]
                ]
                return Answer("stop", objects=tuple(_check_box(box) for box in boxes))
            case Point(_, max_objects):
                spots = [Spot(_fraction(spot["x"]), _fraction(spot["y"])) for spot in answer["points"][:max_objects]]
                return Answer("stop", points=tuple(spots))
            case Caption() | Query():
                text = answer["caption" if isinstance(item.task, Caption) else "answer"]
                if not isinstance(text, str) or not text.strip():
                    message = "Moondream Cloud returned an empty answer: run again with --retry-errors"
                    return Fault("EmptyAnswer", message, retryable=True)
                return Answer("length" if answer.get("finish_reason") == "length" else "stop", text=text.strip())
    except (LookupError, TypeError, ValueError) as error:
        reason = f"Moondream Cloud returned no valid {item.task.name} ({type(error).__name__})"
        message = f"{reason}: run again with --retry-errors"
        return Fault("MismatchedAnswer", message, retryable=True)


def _fraction(number: Any) -> float:
    """Return a fraction of a side, clamped to [0, 1]. Raise ValueError if it is not a finite number."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(number)
    return min(1.0, max(0.0, float(number)))


def _check_box(box: Box) -> Box:
    """Return the box. Raise ValueError if a minimum is above its maximum."""
    if box.x_min > box.x_max or box.y_min > box.y_max:
        raise ValueError(box)
    return box


def _count(number: Any) -> int:
    return number if isinstance(number, int) and not isinstance(number, bool) else -1


def _ms(metrics: Any, name: str) -> float:
    """Return a time of ``metrics``; 0 if it is missing, negative or not a finite number."""
    value = metrics.get(name, 0.0) if isinstance(metrics, dict) else 0.0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value >= 0 else 0.0
