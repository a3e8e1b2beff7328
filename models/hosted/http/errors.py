"""Errors of calls to a hosted API, distinguished by whether the call may have been billed and may be sent again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_MESSAGE_CHARS = 500


class CallError(Exception):
    """A call to a hosted API failed. ``message`` is one line; subclasses pass their other arguments as ``details``."""

    def __init__(self, message: str, *details: Any) -> None:
        # All arguments go to Exception, because pickle passes Exception.args to the constructor again.
        super().__init__(message, *details)
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotSentError(CallError):
    """The request did not reach the API. It was not billed and may be sent again."""


class LostAnswerError(CallError):
    """The request was sent, but no usable answer came back. It may have been billed and must not be sent again."""


class WaitError(CallError):
    """The next call should wait for ``retry_after`` seconds; None if the API named no time."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after


class ThrottledError(WaitError):
    """The API refused the request for now. It was not billed."""


class PollError(WaitError):
    """A poll failed. The job itself continues."""


class UnavailableError(CallError):
    """The API reported a failure of its own. It was not billed. ``retryable``: a retry may succeed."""

    def __init__(self, message: str, retryable: bool = True) -> None:
        super().__init__(message, retryable)
        self.retryable = retryable


class RejectedError(CallError):
    """The API rejected the content of a job.

    ``code``: the API's name of the error. ``by_index``: a message for each input that the API named by its index in the
    job. ``by_input``: a message for each input that the API named by its URL. ``units`` and ``usd``: what was billed.
    """

    units = usd = 0.0

    def __init__(
        self,
        message: str,
        code: str,
        by_index: Mapping[int, str] | None = None,
        by_input: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code, by_index, by_input)
        self.code, self.by_index, self.by_input = code, dict(by_index or {}), dict(by_input or {})


class JobNotFoundError(CallError):
    """The API does not know a job that it once accepted. The job may have been billed."""


class MismatchedAnswerError(CallError):
    """The answer of a job does not match its inputs, so no output can be assigned to an input. The job was billed."""


class AccountError(RuntimeError):
    """The API refuses the key, the balance or the endpoint. All requests fail until the user corrects the account."""


def one_line(text: Any) -> str:
    """Return ``text`` on one line with single spaces, cut to ``MAX_MESSAGE_CHARS`` characters plus "..."."""
    line = " ".join(str(text).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[:MAX_MESSAGE_CHARS] + "..."
