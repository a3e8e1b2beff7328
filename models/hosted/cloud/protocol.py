"""The protocol of Moondream Cloud: what a task asks, what an answer holds, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...tasks import Answer, Box, Caption, Detect, Fault, Point, Query, Spot, Timings, Tokens
from ..service import Item, Reply

# Dollars for a million tokens in and out, of moondream3.1-9B-A2B; https://moondream.ai/pricing of 2026-10-07.
PRICES = (0.30, 1.00)


# How long a batch is waited for.
BATCH_DEADLINE_S = 48 * 3600.0


# What a picture is taken to use where the API does not tell: the average of the example in the docs of its batches.
USUAL_TOKENS = (1500, 50)


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
        return Fault(
            "MismatchedAnswer", f"Moondream Cloud gave no {item.task.name}: {type(error).__name__}", retryable=True
        )


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
