"""Numbers and moments as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from moondream_beam.pipelines import words


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (12.34, "12.3"), (123.4, "123"), (1234567, "1,234,567")],
)
def test_a_number_has_three_digits_that_count(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    "part, whole, text",
    [(0, 0, "0 %"), (1, 3, "33.3 %"), (1, 100_000, "< 0.1 %"), (99_999, 100_000, "> 99.9 %"), (1, 1, "100 %")],
)
def test_a_little_is_not_nothing_and_almost_all_is_not_all(part, whole, text):
    assert words.share(part, whole) == text


@pytest.mark.parametrize("value, text", [(0.5, "0.5 ms"), (1500, "1.5 s"), (90_000, "1.5 min"), (7_200_000, "2 h")])
def test_a_time_that_was_taken(value, text):
    assert words.milliseconds(value) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (5400, "1 h 30 min"), (200_000, "2 d 7 h")],
)
def test_a_time_to_come(seconds, text):
    assert words.duration(seconds) == text


def test_a_moment_is_in_utc():
    east = timezone(timedelta(hours=2))
    assert words.moment(datetime(2030, 1, 2, 1, 30, tzinfo=east)) == words.moment(1893540600000.0)
    assert words.moment(datetime(2030, 1, 2, 1, 30, tzinfo=east)) == "01 Jan 2030, 23:30 UTC"


@pytest.mark.parametrize("fraction, text", [(0.5, "500"), (-1, "0"), (7, "1000"), (float("nan"), "0")])
def test_a_place_is_on_the_picture(fraction, text):
    assert words.place(fraction, 1000) == text
