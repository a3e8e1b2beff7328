"""What a hosted API tells of a request beside its answer."""

from __future__ import annotations

from typing import NamedTuple


class Billing(NamedTuple):
    """The API's own name for the job that a request was in, and the request's part of what was billed.

    ``units`` are what the API counts: billable units at fal, tokens at Moondream Cloud. ``usd`` is None where no price
    is known. ``estimated``: the API did not tell the units. ``response`` is the rest of what it tells, as JSON.
    """

    job: str
    units: float
    usd: float | None
    estimated: bool
    response: str | None
