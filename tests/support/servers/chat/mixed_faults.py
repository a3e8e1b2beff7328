"""A share of each fault of a vision server, for all requests except probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset, reset_in_the_middle

PROBE = b"Name the colours"
# What rows in errors/ may have, beside the rejection of a broken picture.
ERRORS = {"Rejected", "Unavailable", "EmptyAnswer", "BrokenAnswer"}


def emptied(body: dict[str, Any]) -> dict[str, Any]:
    body["choices"][0]["message"]["content"] = ""
    return body


def aborted(body: dict[str, Any]) -> dict[str, Any]:
    body["choices"][0]["finish_reason"] = "abort"
    return body


def mixed_faults(share: float = 0.05) -> list[Fault]:
    """Return nine faults, each of which strikes this share of the requests."""
    unavailable = {"error": {"message": "queue is full"}}
    before = (answer(503, unavailable), answer(500, "Internal Server Error"), answer(429, {}), reset)
    after = (reset_in_the_middle, ends_early, garbled(lambda text: text[:9]), changed(emptied), changed(aborted))
    acts: list[tuple[Callable[..., Any], bool]] = [*((act, True) for act in before), *((act, False) for act in after)]
    return [
        Fault("chat", act, share=share, before=is_before, seed=seed, where=lambda call: PROBE not in call.body)
        for seed, (act, is_before) in enumerate(acts)
    ]
