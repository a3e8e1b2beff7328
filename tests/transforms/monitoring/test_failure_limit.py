"""A run stops if too many of its rows fail."""

from __future__ import annotations

import time

import pytest

from moondream_beam.transforms.core.errors import RunStopped
from moondream_beam.transforms.core.summary import Summary
from moondream_beam.transforms.monitoring.failure_limit import ROWS_BEFORE_STOPPING, FailureLimit

TIMEOUT_S = 20.0


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
def test_a_run_stops_if_its_failure_rate_is_above_the_limit(
    rate: float, annotations: int, failures: int, stops: bool
) -> None:
    limit = FailureLimit(rate, lambda: Summary(annotations, failures))
    if stops:
        with pytest.raises(
            RunStopped, match=f"{failures} of {annotations + failures} rows failed, .*{rate:g} .*--max-failure-rate"
        ):
            limit.check()
    else:
        limit.check()


def test_a_slow_count_is_not_repeated_at_once() -> None:
    counts = []

    def slow() -> Summary:
        counts.append(time.sleep(0.02))
        return Summary()

    limit = FailureLimit(0.1, slow)
    for _ in range(10):
        limit.check()
    assert len(counts) == 1
    end = time.monotonic() + TIMEOUT_S
    while len(counts) == 1:
        assert time.monotonic() < end
        limit.check()
