"""Ends on purpose: when, and what is said of them."""

from __future__ import annotations

import time

import pytest

from moondream_beam.transforms.core.errors import RunStopped, out_of_memory_errors, output_errors, stop_reason
from moondream_beam.transforms.core.summary import Summary
from moondream_beam.transforms.monitoring.failure_limit import MIN_ROWS, FailureLimit

PATIENCE = 20.0


@pytest.mark.parametrize(
    ("rate", "annotations", "failures", "stops"),
    [
        (0.1, 81, 19, False),
        (0.1, 80, 20, True),
        (0.1, 8900, 1100, True),
        (0.1, 9100, 900, False),
        (0.1, 0, MIN_ROWS - 1, False),
        (0.1, 0, MIN_ROWS, True),
        (1.0, 0, 10_000, False),
        (0.0, 0, 10_000, False),
    ],
)
def test_a_run_stops_where_a_larger_share_fails_than_was_allowed(
    rate: float, annotations: int, failures: int, stops: bool
) -> None:
    limit = FailureLimit(rate, lambda: Summary(annotations, failures))
    if stops:
        with pytest.raises(
            RunStopped, match=f"{failures} of {annotations + failures} rows failed, .*Run the same command again"
        ):
            limit.check()
    else:
        limit.check()


def test_a_look_that_takes_long_is_not_repeated_at_once() -> None:
    looks = []

    def slow() -> Summary:
        looks.append(time.sleep(0.02))
        return Summary()

    limit = FailureLimit(0.1, slow)
    for _ in range(10):
        limit.check()
    assert len(looks) == 1
    end = time.monotonic() + PATIENCE
    while len(looks) == 1:
        assert time.monotonic() < end
        limit.check()


def test_the_reason_is_found_behind_the_errors_it_became() -> None:
    try:
        try:
            raise RunStopped("stopped: the disk is full")
        except RunStopped as error:
            raise RuntimeError(f"{error} [while running 'Annotate']") from error
    except RuntimeError as error:
        assert stop_reason(error) == "stopped: the disk is full"


def test_the_reason_is_found_in_the_traceback_of_another_process() -> None:
    text = (
        "Traceback (most recent call last):\n  File ...\n"
        "moondream_beam.transforms.core.errors.RunStopped: stopped: the disk is full [while running 'Annotate']\n\nmore"
    )
    assert stop_reason(RuntimeError(text)) == "stopped: the disk is full"


def test_other_errors_have_no_such_reason() -> None:
    assert stop_reason(RuntimeError("stopped: not on purpose")) is None
    assert stop_reason(None) is None


def test_what_an_output_refuses_is_told_with_its_place() -> None:
    told = r"can't write to /out: \[Errno 28\] full; once that is cured"
    with pytest.raises(RunStopped, match=told), output_errors("/out"):
        raise OSError(28, "full")
    with pytest.raises(KeyError), output_errors("/out"):
        raise KeyError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: 5 bytes"),
    ],
)
def test_a_process_without_memory_says_so_in_a_line(error: Exception) -> None:
    told = "stopped: this process has no memory left; .* the same command goes on$"
    with pytest.raises(RunStopped, match=told), out_of_memory_errors():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("no"), RunStopped("stopped: out of memory"), KeyError("out of memory")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, out_of_memory_errors():
        raise error
    assert raised.value is error
