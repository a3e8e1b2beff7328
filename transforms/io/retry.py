"""Errors of networks and stores, and the policy that retries them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...models.tasks import Fault
from ...models.web.backoff import backoff

T = TypeVar("T")

# The error of a byte range that starts after the end of the object: HTTP status 416.
RANGE_NOT_SATISFIABLE = "RangeNotSatisfiable"


class FetchError(OSError):
    """A request to a server or store failed because of ``fault``.

    ``retry_after_s``: the seconds that the server asked to wait before the next request; None if it did not ask.
    """

    def __init__(self, fault: Fault, retry_after_s: float | None = None) -> None:
        super().__init__(fault.message)
        self.fault, self.retry_after_s = fault, retry_after_s

    def __reduce__(self) -> Any:
        return FetchError, (self.fault, self.retry_after_s)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is attempted, within ``timeout_s`` seconds in all.

    The delay after attempt n is random from 0 to ``initial_delay_s * 2 ** (n - 1)``, at most ``max_delay_s``, so that
    clients that failed together don't retry together.
    """

    max_attempts: int = 5
    timeout_s: float = 120.0
    initial_delay_s: float = 0.5
    max_delay_s: float = 20.0

    def delay(self, tries: int, after: float | None) -> float:
        """Return the seconds to wait after attempt ``tries`` (from 1): a random delay plus ``after`` (None: 0)."""
        return (after or 0.0) + backoff(tries, self.initial_delay_s, self.max_delay_s)

    def call(self, action: Callable[[float], T]) -> T:
        """Return what ``action(deadline)`` returns, and retry it after a retryable FetchError.

        ``deadline`` is on the clock of ``time.monotonic``. Other exceptions of ``action`` pass through.

        Raises:
            FetchError: if attempt ``max_attempts`` fails, or one that is not retryable, or if the next delay would end
                after the deadline. ``fault.attempts`` is the number of attempts.
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
    """Return a FetchError "FileNotFoundError", not retryable. Advice is added to ``message``."""
    return FetchError(Fault("FileNotFoundError", f"{message}; check that it exists"))


def permission_denied(message: str) -> FetchError:
    """Return a FetchError "PermissionError", not retryable."""
    return FetchError(Fault("PermissionError", message))


def timed_out(message: str) -> FetchError:
    """Return a retryable FetchError "TimeoutError". Advice is added to ``message``."""
    return FetchError(Fault("TimeoutError", f"{message}; try again later", retryable=True))


def connection_error(message: str) -> FetchError:
    """Return a retryable FetchError "ConnectionError", for a connection that is refused or breaks off, with advice."""
    return FetchError(Fault("ConnectionError", f"{message}; try again later", retryable=True))


def http_error(status: int, message: str, retry_after_s: float | None = None) -> FetchError:
    """Return the FetchError for the HTTP status of an error. The status and advice are added to ``message``.

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
        return FetchError(Fault(RANGE_NOT_SATISFIABLE, f"{text}; check that the object is complete"))
    retryable = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
    if not retryable:
        return FetchError(Fault("StatusError", f"{text}; correct the URI"), retry_after_s)
    return FetchError(Fault("ServerError", f"{text}; try again later", retryable=True), retry_after_s)


def has_range(byte_range: tuple[int, int], status: int, length: Any) -> bool:
    """Return whether the response to a request for a range has that range, and not the whole object.

    HTTP allows a server to ignore a range. The bytes of the response would be taken for those at another position.

    Args:
        byte_range: position of the first byte, and number of bytes.
        status: HTTP status of the response, 206 if it has the range.
        length: its Content-Length, a number or its digits; None if it has none.
    """
    start, size = byte_range
    return status == 206 or (start == 0 and length is not None and int(length) <= size)


def range_ignored(uri: str) -> FetchError:
    """Return the FetchError of a response without the range that was asked for: "RangeIgnored", not retryable."""
    cure = "copy the file to a disk, or to a store that reads ranges"
    return FetchError(Fault("RangeIgnored", f"{uri}: the server ignores the byte range of a request; {cure}"))


def join_chunks(chunks: Iterable[bytes], name: str, max_bytes: int, deadline: float) -> bytes:
    """Return the joined chunks of a download; messages call it ``name``.

    Raises:
        ValueError: if they have more than ``max_bytes`` bytes.
        FetchError: if one arrives after ``deadline``, on the clock of ``time.monotonic``.
    """
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > max_bytes:
            raise too_large(max_bytes)
        if time.monotonic() > deadline:
            raise timed_out(f"{name} is sent too slowly")
    return bytes(content)


def too_large(max_bytes: int) -> ValueError:
    """Return the error for content of more than ``max_bytes`` bytes; its message gives the limit in MiB."""
    return ValueError(f"the file is larger than {max_bytes >> 20} MiB: replace it with a smaller one")
