"""What a hosted API billed for a request."""

from __future__ import annotations

from typing import NamedTuple


class Billing(NamedTuple):
    """What a hosted API billed for a request; the ``hosted`` column of a row. The requests of a job divide the bill
    evenly.

    ``job``: the API's id of the job, empty if no job was accepted. ``units``: billable units at fal, tokens at
    Moondream Cloud. ``usd``: dollars, None if no price is known. ``estimated``: True if the API did not report the
    units. ``response``: JSON text of what else the API reported with the answer, None if there is no answer.
    """

    job: str
    units: float
    usd: float | None
    estimated: bool
    response: str | None
