"""Retry-After headers of every kind, and random exponential backoff."""

from __future__ import annotations

from email.utils import formatdate
from time import time

import pytest

from moondream_beam.models.web.backoff import backoff, parse_retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0.0), ("20", 20.0), (" 1.5 ", 1.5), ("1e9", 600.0), ("601", 600.0), ("Mon, 01 Jan 2024 00:00:00 GMT", 0.0)],
)
def test_a_header_of_seconds_or_a_past_date_is_read_and_capped(header: str, seconds: float) -> None:
    assert parse_retry_after(header, 600.0) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0000"])
def test_a_header_with_a_date_is_the_time_until_then(zone: str) -> None:
    header = formatdate(time() + 30, usegmt=True).replace("GMT", zone)
    assert 28 <= parse_retry_after(header) <= 30
    assert parse_retry_after(header, 5.0) == 5.0


@pytest.mark.parametrize(
    "header", [None, "", "soon", "-5", "nan", "inf", "-inf", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"]
)
def test_a_header_that_is_neither_seconds_nor_a_date_is_ignored(header: str | None) -> None:
    assert parse_retry_after(header, 600.0) is None


def test_a_backoff_is_random_below_a_limit_that_doubles() -> None:
    for attempts, limit in ((1, 1), (2, 2), (3, 4), (4, 6), (9, 6), (10**9, 6)):
        delays = [backoff(attempts, 1.0, 6.0) for _ in range(500)]
        assert 0 <= min(delays) < limit / 10 and limit * 0.9 < max(delays) <= limit
