"""Retryable errors are retried, all others are not."""

from __future__ import annotations

import pickle
import time

import pytest

from moondream_beam.models.tasks import Fault
from moondream_beam.transforms.io import retry
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy, connection_error, http_error, not_found


class Clock:
    """A clock that only waiting moves on."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


QUICK = RetryPolicy(max_attempts=4, timeout_s=5, initial_delay_s=0.001)


def failing(*errors: Exception):
    """Return an action that raises these errors one after another, and then returns "done"."""
    remaining = list(errors)

    def action(deadline: float) -> str:
        if remaining:
            raise remaining.pop(0)
        return "done"

    return action


def test_retryable_errors_are_retried_until_the_action_succeeds() -> None:
    assert QUICK.call(failing(*[connection_error("reset")] * 3)) == "done"


def test_the_last_fault_has_the_number_of_attempts() -> None:
    with pytest.raises(FetchError, match="third") as caught:
        RetryPolicy(max_attempts=3, initial_delay_s=0.001).call(
            failing(connection_error("first"), connection_error("second"), connection_error("third"))
        )
    assert caught.value.fault == Fault("ConnectionError", "third; try again later", retryable=True, attempts=3)


def test_an_error_that_is_not_retryable_is_not_retried() -> None:
    with pytest.raises(FetchError) as caught:
        QUICK.call(failing(not_found("gone")))
    assert caught.value.fault == Fault("FileNotFoundError", "gone; check that it exists", retryable=False, attempts=1)


def test_a_retry_that_fails_for_good_is_the_last() -> None:
    with pytest.raises(FetchError) as caught:
        QUICK.call(failing(connection_error("reset"), not_found("gone")))
    assert caught.value.fault.attempts == 2 and not caught.value.fault.retryable


def test_other_exceptions_are_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="large"):
        QUICK.call(failing(ValueError("large")))


def test_no_attempt_starts_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    retry_policy = RetryPolicy(max_attempts=100, timeout_s=20, initial_delay_s=8, max_delay_s=8)
    with pytest.raises(FetchError) as caught:
        retry_policy.call(failing(*[connection_error("reset")] * 100))
    assert clock.now < 20 and 2 <= caught.value.fault.attempts < 100


def test_delays_are_random_up_to_a_maximum_that_doubles() -> None:
    retry_policy = RetryPolicy(initial_delay_s=1, max_delay_s=6)
    for attempts, longest in ((1, 1), (2, 2), (3, 4), (4, 6), (9, 6)):
        delays = [retry_policy.delay(attempts, None) for _ in range(500)]
        assert 0 <= min(delays) < longest / 10 and longest * 0.9 < max(delays) <= longest


def test_a_retry_waits_as_long_as_the_server_asks() -> None:
    started = time.monotonic()
    assert QUICK.call(failing(FetchError(connection_error("busy").fault, retry_after_s=0.1))) == "done"
    assert time.monotonic() - started >= 0.1


def test_a_wait_beyond_the_timeout_ends_the_attempts_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        QUICK.call(failing(FetchError(connection_error("busy").fault, retry_after_s=60)))
    assert time.monotonic() - started < 30 and caught.value.fault.retryable


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (404, "FileNotFoundError", False),
        (410, "FileNotFoundError", False),
        (401, "PermissionError", False),
        (403, "PermissionError", False),
        (429, "ServerError", True),
        (408, "ServerError", True),
        (500, "ServerError", True),
        (503, "ServerError", True),
        (501, "StatusError", False),
        (400, "StatusError", False),
    ],
)
def test_a_status_decides_whether_the_error_is_retryable(status: int, error: str, retryable: bool) -> None:
    fault = http_error(status, "it").fault
    assert (fault.error, fault.retryable) == (error, retryable) and str(status) in fault.message


def test_a_fetch_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(FetchError(Fault("A", "b", True, 3), retry_after_s=2.0)))
    assert (error.fault, error.retry_after_s, str(error)) == (Fault("A", "b", True, 3), 2.0, "b")
