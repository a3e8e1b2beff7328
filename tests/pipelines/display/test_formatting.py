"""Numbers, durations and times, formatted for people."""

from __future__ import annotations

import math

import pytest

from moondream_beam.pipelines.display import formatting


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (5.638, "5.64"), (1234.5, "1,234"), (0.00123, "0.00123"), (20, "20"), (math.nan, "0")],
)
def test_a_number_has_three_significant_digits(value, text):
    assert formatting.format_number(value) == text


@pytest.mark.parametrize(
    "part, whole, text",
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 3, "33.3 %"),
        (1, 10**6, "< 0.1 %"),
        (10**6 - 1, 10**6, "> 99.9 %"),
        (0, 0, "0 %"),
    ],
)
def test_a_small_share_is_not_zero_and_a_large_one_is_not_all(part, whole, text):
    assert formatting.format_percent(part, whole) == text


@pytest.mark.parametrize("value, text", [(2.5, "$2.50"), (1234.567, "$1,234.57"), (0.00123, "$0.00123"), (0, "$0.00")])
def test_dollars_have_cents_and_small_sums_have_three_digits(value, text):
    assert formatting.format_usd(value) == text


@pytest.mark.parametrize("value, text", [(12.34, "12.3 ms"), (1500, "1.5 s"), (90_000, "1.5 min"), (7_200_000, "2 h")])
def test_milliseconds_are_in_the_largest_unit(value, text):
    assert formatting.format_milliseconds(value) == text


@pytest.mark.parametrize("fraction, units", [(0.5, "50"), (-1, "0"), (2, "100"), (math.inf, "0"), (math.nan, "0")])
def test_a_coordinate_is_clamped_to_the_picture(fraction, units):
    assert formatting.format_coordinate(fraction, 100) == units


def test_a_time_is_in_utc_to_the_minute():
    assert formatting.format_time(0) == "01 Jan 1970, 00:00 UTC"


def test_a_long_option_is_cut():
    assert formatting.format_option(None) == "null" and formatting.format_option(["é"]) == '["é"]'
    assert len(formatting.format_option("x" * 10_000)) < 700


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (5400, "1 h 30 min"), (200_000, "2 d 7 h")],
)
def test_a_duration_has_two_units(seconds, text):
    assert formatting.format_duration(seconds) == text


def test_columns_of_a_table_are_as_wide_as_their_longest_text():
    cells = [("filename", "prompt", "answer"), ("a.jpg", "normal", "a dog"), ("b.jpg", "What is this?", "")]
    assert list(formatting.format_table(cells)) == [
        "filename  prompt         answer",
        "a.jpg     normal         a dog",
        "b.jpg     What is this?",
    ]


def test_columns_can_be_aligned_to_the_right():
    assert list(formatting.format_table([("", "time"), ("here", "5 s")], right=(1,))) == ["      time", "here   5 s"]
