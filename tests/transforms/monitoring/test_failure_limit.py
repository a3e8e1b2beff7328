"""A run stops once its failures are above the limit by more than chance, and looks at its progress rarely."""

from __future__ import annotations

import pytest

from moondream_beam.transforms.core.errors import RunStopped
from moondream_beam.transforms.core.summary import Summary
from moondream_beam.transforms.monitoring import failure_limit
from moondream_beam.transforms.monitoring.failure_limit import FailureLimit


@pytest.mark.parametrize(
    ("rate", "rows", "failures"),
    [
        (0.0, 1000, 1000),
        (0.5, 99, 99),
        # Three standard deviations of a fair coin: 50 + 15.
        (0.5, 100, 65),
        (0.1, 10_000, 1090),
    ],
)
def test_a_run_goes_on_without_a_limit_with_few_rows_or_by_chance(rate: float, rows: int, failures: int) -> None:
    FailureLimit(rate, lambda: Summary(annotations=rows - failures, failures=failures)).check()


@pytest.mark.parametrize(("rate", "rows", "failures"), [(0.5, 100, 66), (0.1, 10_000, 1091)])
def test_a_run_above_its_limit_stops_with_the_counts_and_the_cure(rate: float, rows: int, failures: int) -> None:
    limit = FailureLimit(rate, lambda: Summary(annotations=rows - failures, failures=failures))
    with pytest.raises(
        RunStopped, match=f"{failures} of {rows} rows failed, more than --max-failure-rate {rate}"
    ) as told:
        limit.check()
    assert "errors/" in str(told.value) and "--retry-errors" in str(told.value)


def test_reading_takes_at_most_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [100.0], []

    def read() -> Summary:
        reads.append(now[0])
        now[0] += 2.0
        return Summary()

    monkeypatch.setattr(failure_limit.time, "monotonic", lambda: now[0])
    limit = FailureLimit(0.5, read)
    for _ in range(100):
        limit.check()
        now[0] += 1.0
    assert reads == [100.0, 140.0, 180.0]


def test_without_a_limit_nothing_is_read() -> None:
    FailureLimit(0.0, lambda: pytest.fail("read")).check()
