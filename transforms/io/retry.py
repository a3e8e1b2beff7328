"""Faults of networks and stores, and how often, and when, the same thing is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...models.backoff import backoff
from ...models.tasks import Fault

T = TypeVar("T")

BEHIND_THE_END = "BehindTheEnd"


class FetchError(OSError):
    """Something far away can't be had, and why; ``after`` are the seconds that the other side asked to wait."""

    def __init__(self, fault: Fault, after: float | None = None) -> None:
        super().__init__(fault.message)
        self.fault, self.after = fault, after

    def __reduce__(self) -> Any:
        return FetchError, (self.fault, self.after)

    def __str__(self) -> str:
        return self.fault.message


@dataclass(frozen=True)
class RetryPolicy:
    """How often something is tried, and for how many seconds in all, from the first try on.

    Before try n + 1 lies a pause that is drawn from 0 to ``first_pause`` * 2 ** n, at most ``longest_pause``: many who
    failed at the same moment don't come back at the same moment.
    """

    max_attempts: int = 5
    timeout_s: float = 120.0
    initial_delay_s: float = 0.5
    max_delay_s: float = 20.0

    def delay(self, tries: int, after: float | None) -> float:
        """Seconds to wait after so many tries."""
        return (after or 0.0) + backoff(tries, self.initial_delay_s, self.max_delay_s)

    def call(self, action: Callable[[float], T]) -> T:
        """What ``action`` returns; it is given the end of its time on the clock of ``time.monotonic``.

        Raises:
            FetchError: the last one, with the number of tries: what it tells can't pass, or did not pass in time.
        """
        end = time.monotonic() + self.timeout_s
        tries = 1
        while True:
            try:
                return action(end)
            except FetchError as error:
                pause = self.delay(tries, error.after)
                if not error.fault.retryable or tries == self.max_attempts or time.monotonic() + pause >= end:
                    raise FetchError(replace(error.fault, attempts=tries)) from error
            time.sleep(pause)
            tries += 1


def missing(what: str) -> FetchError:
    """It is not there."""
    return FetchError(Fault("FileNotFoundError", what))


def forbidden(what: str) -> FetchError:
    """We may not have it."""
    return FetchError(Fault("PermissionError", what))


def timed_out(what: str) -> FetchError:
    """It took too long; another time it may not."""
    return FetchError(Fault("TimeoutError", what, retryable=True))


def cut_off(what: str) -> FetchError:
    """The connection was refused, reset or ended too early; this may pass."""
    return FetchError(Fault("ConnectionError", what, retryable=True))


def of_status(status: int, what: str, after: float | None = None) -> FetchError:
    """What an HTTP status of an error means, the same for every store."""
    text = f"{what} (HTTP status {status})"
    if status in (404, 410):
        return missing(text)
    if status in (401, 403, 407, 451):
        return forbidden(text)
    if status == 416:
        return FetchError(Fault(BEHIND_THE_END, text))
    passes = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
    return FetchError(Fault("ServerError" if passes else "StatusError", text, retryable=passes), after)


def too_large(limit: int) -> ValueError:
    """It has more bytes than are let in."""
    return ValueError(f"the file is larger than {limit >> 20} MiB")
