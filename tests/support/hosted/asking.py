"""Questions about numbered pictures, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moondream_beam.models.tasks import Answer, Fault, Outcome, Query, Request, Sampling, Task

from .pictures import numbered

PLAIN = Query()


def requests(numbers: int | Iterable[int], task: Task = PLAIN, **kwargs: Any) -> list[Request]:
    """A request about each numbered picture."""
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    return [Request(f"r{number}", numbered(number), task, Sampling(), **kwargs) for number in numbers]


def ended(outcomes: Iterable[Outcome]) -> dict[int, str]:
    """The text of each answer or the name of each fault, by the number of its picture; each request once."""
    told: dict[int, str] = {}
    for outcome in outcomes:
        number = int(outcome.id.removeprefix("r"))
        assert number not in told, f"{outcome.id} has two outcomes"
        result = outcome.result
        assert isinstance(result, Answer | Fault)
        told[number] = result.error if isinstance(result, Fault) else str(result.text)
    return told


def right(numbers: int | Iterable[int], prompt: str = PLAIN.question) -> dict[int, str]:
    """What each picture should be told of, if all goes well."""
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    return {number: f"{prompt} | {number}" for number in numbers}
