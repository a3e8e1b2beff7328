"""Ends on purpose: when, and what is said of them."""

from __future__ import annotations

import pytest

from moondream_beam.transforms.stop import (
    ROWS_BEFORE_STOPPING,
    StoppedError,
    TooManyFailures,
    stop_reason,
    telling_what_failed,
)
from moondream_beam.transforms.summary import Summary


@pytest.mark.parametrize(
    ("rate", "annotations", "failures", "stops"),
    [
        (0.1, 81, 19, False),
        (0.1, 80, 20, True),
        (0.1, 8900, 1100, True),
        (0.1, 9100, 900, False),
        (0.1, 0, ROWS_BEFORE_STOPPING - 1, False),
        (0.1, 0, ROWS_BEFORE_STOPPING, True),
        (1.0, 0, 10_000, False),
        (0.0, 0, 10_000, False),
    ],
)
def test_a_run_stops_where_a_larger_share_fails_than_was_allowed(
    rate: float, annotations: int, failures: int, stops: bool
) -> None:
    limit = TooManyFailures(rate, lambda: Summary(annotations, failures))
    if stops:
        with pytest.raises(StoppedError, match=f"{failures} of {annotations + failures} rows failed, .* goes on$"):
            limit.check()
    else:
        limit.check()


def test_the_reason_is_found_behind_the_errors_it_became() -> None:
    try:
        try:
            raise StoppedError("stopped: the disk is full")
        except StoppedError as error:
            raise RuntimeError(f"{error} [while running 'Annotate']") from error
    except RuntimeError as error:
        assert stop_reason(error) == "stopped: the disk is full"


def test_the_reason_is_found_in_the_traceback_of_another_process() -> None:
    text = (
        "Traceback (most recent call last):\n  File ...\n"
        "moondream_beam.transforms.stop.StoppedError: stopped: the disk is full [while running 'Annotate']\n\nmore"
    )
    assert stop_reason(RuntimeError(text)) == "stopped: the disk is full"


def test_other_errors_have_no_such_reason() -> None:
    assert stop_reason(RuntimeError("stopped: not on purpose")) is None
    assert stop_reason(None) is None


def test_what_an_output_refuses_is_told_with_its_place() -> None:
    told = r"can't write to /out: \[Errno 28\] full; once that is cured"
    with pytest.raises(StoppedError, match=told), telling_what_failed("/out"):
        raise OSError(28, "full")
    with pytest.raises(KeyError), telling_what_failed("/out"):
        raise KeyError
