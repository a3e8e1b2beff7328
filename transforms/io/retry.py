"""Errors of networks and stores, and the policy that retries them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...models.tasks import Fault

T = TypeVar("T")

# The error of a byte range that starts after the end of the object: HTTP status 416.
RANGE_NOT_SATISFIABLE = "RangeNotSatisfiable"


class FetchError(OSError):
    """A request to a server or store failed because of ``fault``.

    ``retry_after_s``: how many seconds the server asked to wait before the next request, None if it did not ask.
    """

    def __init__(self, fault: Fault, retry_after_s: float | None = None) -> None:
        super().__init__(fault.message)
        self.fault, self.retry_after_s = fault, retry_after_s

    def __reduce__(self) -> Any:
        return FetchError, (self.fault, self.retry_after_s)

    def __str__(self) -> str:
        return self.fault.message


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is attempted, and within how many seconds in all.

    The delay after attempt n is random between 0 and ``initial_delay_s * 2 ** (n - 1)``, at most ``max_delay_s``.
    The randomness keeps many clients that failed together from retrying together.
    """

    max_attempts: int = 5
    timeout_s: float = 120.0
    initial_delay_s: float = 0.5
    max_delay_s: float = 20.0

    def delay(self, tries: int, after: float | None) -> float:
        """Return the seconds to wait after attempt ``tries`` (from 1): a random delay plus ``after`` (None: 0)."""
        return (after or 0.0) + random.uniform(0, min(self.max_delay_s, self.initial_delay_s * 2 ** (tries - 1)))

    def call(self, action: Callable[[float], T]) -> T:
        """Return what ``action(deadline)`` returns; ``deadline`` is on the clock of ``time.monotonic``.

        Raises:
            FetchError: if the last attempt failed, with the number of attempts in its fault. The last attempt is the
                first that fails with a fault that is not retryable, number ``max_attempts``, or the one after which the
                delay would pass the deadline.
        """
        deadline = time.monotonic() + self.timeout_s
        attempts = 1
        while True:
            try:
                return action(deadline)
            except FetchError as error:
                delay = self.delay(attempts, error.retry_after_s)
                is_last = attempts == self.max_attempts or time.monotonic() + delay >= deadline
                if is_last or not error.fault.retryable:
                    raise FetchError(replace(error.fault, attempts=attempts)) from error
            time.sleep(delay)
            attempts += 1


def not_found(message: str) -> FetchError:
    """Return an error, not retryable, for an object that does not exist. Advice is added to ``message``."""
    return FetchError(Fault("FileNotFoundError", f"{message}; check that it exists"))


def permission_denied(message: str) -> FetchError:
    """Return an error, not retryable, for an object that may not be read."""
    return FetchError(Fault("PermissionError", message))


def timed_out(message: str) -> FetchError:
    """Return a retryable error for a request that took too long. Advice is added to ``message``."""
    return FetchError(Fault("TimeoutError", f"{message}; try again later", retryable=True))


def connection_error(message: str) -> FetchError:
    """Return a retryable error for a connection that was refused or broke off. Advice is added to ``message``."""
    return FetchError(Fault("ConnectionError", f"{message}; try again later", retryable=True))


def http_error(status: int, message: str, retry_after_s: float | None = None) -> FetchError:
    """Return the error for an HTTP status. The status and advice are added to ``message``.

    404 and 410 give ``not_found``; 401, 403, 407 and 451 ``permission_denied``; 416 ``RANGE_NOT_SATISFIABLE``.
    408, 425, 429 and 5xx except 501 and 505 give a retryable ``ServerError``. All others give a ``StatusError``, which
    is not retryable. Both of these carry ``retry_after_s``.
    """
    text = f"{message} (HTTP status {status})"
    if status in (404, 410):
        return not_found(text)
    if status in (401, 403, 407, 451):
        return permission_denied(f"{text}; check the credentials and the access rights")
    if status == 416:
        return FetchError(Fault(RANGE_NOT_SATISFIABLE, text))
    retryable = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
    if not retryable:
        return FetchError(Fault("StatusError", f"{text}; correct the URI"), retry_after_s)
    return FetchError(Fault("ServerError", f"{text}; try again later", retryable=True), retry_after_s)


def too_large(max_bytes: int) -> ValueError:
    """Return the error for content of more than ``max_bytes`` bytes."""
    return ValueError(f"the file is larger than {max_bytes >> 20} MiB: replace it with a smaller one")
