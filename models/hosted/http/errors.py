"""How a call to a hosted API can end badly, told by what each end means for the money."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MESSAGE_CHARS = 500


class CallError(Exception):
    """A call that brought no answer."""


class NotSentError(CallError):
    """Nothing reached the API: it may be sent again, and nothing was paid."""


class LostAnswerError(CallError):
    """It was sent and no answer came: the API may have taken it, and may bill it. It is never sent again by itself."""


class ThrottledError(CallError):
    """Refused for now, and not paid; ``retry_after`` are the seconds that the API asks for, if it does."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.message, self.retry_after = message, retry_after

    def __str__(self) -> str:
        return self.message


class UnavailableError(CallError):
    """The API failed and says so, which is not paid. ``again``: whether it is any use to ask again."""

    def __init__(self, message: str, again: bool = True) -> None:
        super().__init__(message, again)
        self.message, self.again = message, again

    def __str__(self) -> str:
        return self.message


class RejectedError(CallError):
    """What was sent is wrong. ``kind`` is the API's name for it; ``named`` are the places in the job of the inputs that
    it names, with a message each; ``inputs`` are messages by the input's own text (its URL). ``units`` and ``usd`` are
    what it was billed all the same."""

    units = usd = 0.0

    def __init__(
        self, message: str, kind: str, named: Mapping[int, str] | None = None, inputs: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, kind, named, inputs)
        self.message, self.kind, self.named, self.inputs = message, kind, dict(named or {}), dict(inputs or {})

    def __str__(self) -> str:
        return self.message


class PollError(CallError):
    """Asking after a job failed; the job itself goes on. ``retry_after`` as in ThrottledError."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.message, self.retry_after = message, retry_after

    def __str__(self) -> str:
        return self.message


class GoneError(CallError):
    """The API knows nothing of a job that it once took."""


class UnfitError(CallError):
    """The answer doesn't fit the questions: which belongs to which can't be known."""


class AccountError(RuntimeError):
    """The key, the balance or the endpoint: no request of anybody will be answered until somebody acts."""


def brief(text: Any) -> str:
    """A server's words on one line, cut to a length that fits a row."""
    line = " ".join(str(text).split())
    return line if len(line) <= MESSAGE_CHARS else line[:MESSAGE_CHARS] + "…"
