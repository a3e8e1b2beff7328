"""What passes is tried again, what can't pass is not."""

from __future__ import annotations

import pickle
import time

import pytest

from moondream_beam.models.tasks import Fault
from moondream_beam.transforms.io.retry import FetchError, RetryPolicy, connection_error, http_error, not_found

QUICK = RetryPolicy(max_attempts=4, timeout_s=5, initial_delay_s=0.001)


def failing(*errors: Exception):
    """An action that raises these, one after the other, and then is done."""
    left = list(errors)

    def action(end: float) -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def test_what_passes_is_tried_until_it_passes() -> None:
    assert (
        QUICK.call(failing(connection_error("reset"), connection_error("reset"), connection_error("reset"))) == "done"
    )


def test_the_last_fault_tells_how_often_it_was_tried() -> None:
    with pytest.raises(FetchError, match="third") as caught:
        RetryPolicy(max_attempts=3, initial_delay_s=0.001).call(
            failing(connection_error("first"), connection_error("second"), connection_error("third"))
        )
    assert caught.value.fault == Fault("ConnectionError", "third", retryable=True, attempts=3)


def test_what_cannot_pass_is_tried_once() -> None:
    with pytest.raises(FetchError) as caught:
        QUICK.call(failing(not_found("gone")))
    assert caught.value.fault == Fault("FileNotFoundError", "gone", retryable=False, attempts=1)


def test_what_comes_to_be_gone_ends_the_tries() -> None:
    with pytest.raises(FetchError) as caught:
        QUICK.call(failing(connection_error("reset"), not_found("gone")))
    assert caught.value.fault.attempts == 2 and not caught.value.fault.retryable


def test_errors_of_other_kinds_pass_through() -> None:
    with pytest.raises(ValueError, match="large"):
        QUICK.call(failing(ValueError("large")))


def test_no_try_begins_after_the_end() -> None:
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        RetryPolicy(max_attempts=100, timeout_s=0.2, initial_delay_s=0.1, max_delay_s=0.1).call(
            failing(*[connection_error("reset")] * 100)
        )
    assert time.monotonic() - started < 0.5
    assert 1 <= caught.value.fault.attempts < 100


def test_pauses_are_drawn_from_nothing_to_twice_the_last_one() -> None:
    retry_policy = RetryPolicy(initial_delay_s=1, max_delay_s=6)
    for tries, most in ((1, 1), (2, 2), (3, 4), (4, 6), (9, 6)):
        pauses = [retry_policy.delay(tries, None) for _ in range(500)]
        assert 0 <= min(pauses) < most / 10 and most * 0.9 < max(pauses) <= most


def test_who_is_asked_to_wait_waits() -> None:
    started = time.monotonic()
    assert QUICK.call(failing(FetchError(connection_error("busy").fault, retry_after_s=0.1))) == "done"
    assert time.monotonic() - started >= 0.1


def test_who_is_asked_to_wait_too_long_gives_up_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        QUICK.call(failing(FetchError(connection_error("busy").fault, retry_after_s=60)))
    assert time.monotonic() - started < 1 and caught.value.fault.retryable


@pytest.mark.parametrize(
    ("status", "error", "passes"),
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
def test_a_status_says_whether_it_may_pass(status: int, error: str, passes: bool) -> None:
    fault = http_error(status, "it").fault
    assert (fault.error, fault.retryable) == (error, passes) and str(status) in fault.message


def test_a_fault_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(FetchError(Fault("A", "b", True, 3), retry_after_s=2.0)))
    assert (error.fault, error.retry_after_s, str(error)) == (Fault("A", "b", True, 3), 2.0, "b")
