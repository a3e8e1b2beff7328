"""Requests about numbered pictures, and the results that are expected for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moondream_beam.models.tasks import Answer, Fault, Outcome, Query, Request, Sampling, Task

from .pictures import numbered

PLAIN = Query()


def requests(numbers: int | Iterable[int], task: Task = PLAIN, **kwargs: Any) -> list[Request]:
    """Return a request ``r<number>`` about each numbered picture; an int means the numbers below it."""
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    return [Request(f"r{number}", numbered(number), task, Sampling(), **kwargs) for number in numbers]


def results_of(outcomes: Iterable[Outcome]) -> dict[int, str]:
    """Return the text of each answer or the error of each fault, by picture number. Fail on a second outcome."""
    results: dict[int, str] = {}
    for outcome in outcomes:
        number = int(outcome.id.removeprefix("r"))
        assert number not in results, f"{outcome.id} has two outcomes"
        result = outcome.result
        assert isinstance(result, Answer | Fault)
        results[number] = result.error if isinstance(result, Fault) else str(result.text)
    return results


def expected(numbers: int | Iterable[int], prompt: str = PLAIN.question) -> dict[int, str]:
    """Return the results if every request is answered with the right picture's number."""
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    return {number: f"{prompt} | {number}" for number in numbers}
