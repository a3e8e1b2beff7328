"""The interface to one hosted API: submit, poll and cancel jobs, and parse their answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..tasks import Answer, Fault, Request, Task, Timings, Tokens
from .http.images import data_uri, public_url


class Settings(NamedTuple):
    """The sampling of a request. All requests of one job have the same settings."""

    max_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float


@dataclass(eq=False)
class Item:
    """One request as an API gets it. The picture is at ``url``, or ``jpeg`` if there is no URL.

    ``arrived`` and ``sent``: when the request came in, and when its job was accepted, in seconds of the clock.
    ``units`` and ``usd``: 1/n of the bill of each job of n requests that contained this one, summed. ``estimated``:
    whether the API did not report the units of one of these jobs.
    ``uploaded``: the URL of the picture in the API's storage, None before an upload.
    """

    id: str
    task: Task
    settings: Settings
    url: str | None
    arrived: float
    jpeg: bytes = b""
    sent: float = 0.0
    units: float = 0.0
    usd: float = 0.0
    estimated: bool = False
    uploaded: str | None = None

    @classmethod
    def from_request(cls, request: Request, now: float, send_urls: bool) -> Item:
        """Return the item for a request that arrived at ``now``, without ``jpeg``.

        With ``send_urls`` a public URL of the picture is in ``url``.
        """
        drawn = request.sampling
        numbers = map(float, (drawn.temperature, drawn.top_p, drawn.repetition_penalty))
        settings = Settings(drawn.budget(request.task), *numbers)
        return cls(request.id, request.task, settings, public_url(request.uri) if send_urls else None, now)

    def was_sent_as(self, text: str) -> bool:
        """Return whether ``text`` is the URL or data URI under which the API got the picture."""
        return text in (self.url, self.uploaded) or bool(self.jpeg and text == data_uri(self.jpeg))

    @property
    def size(self) -> int:
        """The bytes that the picture takes in a request body: those of the URL, or of the JPEG in base64."""
        return len(self.url or "") + 4 * len(self.jpeg) // 3


class JobResult(NamedTuple):
    """The result of a finished job: the API's JSON ``answer``, and what was billed.

    ``units`` is None if the API did not report them. ``usd`` is None if they or the price are unknown.
    """

    answer: Any
    units: float | None
    usd: float | None


class Reply(NamedTuple):
    """The part of a job's answer about one item. ``response``: JSON text of what else the API reported about it."""

    result: Answer | Fault
    timings: Timings = Timings()
    tokens: Tokens = Tokens()
    response: str | None = None


class EndedCalls:
    """The jobs that have ended in this process and were not polled since.

    ``count`` grows with each ended job and each call of ``notify``.
    """

    def __init__(self) -> None:
        self.count = 0
        self._jobs: set[str] = set()
        self._changed = threading.Condition()

    def __contains__(self, job: str) -> bool:
        return job in self._jobs

    def add(self, job: str) -> None:
        """Add a job, and wake all threads in ``wait``."""
        with self._changed:
            self._jobs.add(job)
            self.count += 1
            self._changed.notify_all()

    def notify(self) -> None:
        """Wake all threads in ``wait``, although no job has ended."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def discard(self, job: str) -> None:
        """Remove a job if it is there."""
        with self._changed:
            self._jobs.discard(job)

    def wait(self, seen: int, seconds: float) -> bool:
        """Block until ``count`` is not ``seen``, at most ``seconds``. Return whether ``count`` is another number."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count != seen, seconds)


class Service(Protocol):
    """One hosted API. The methods raise the errors of http/errors.py.

    ``backend``: the ``backend`` column of rows. ``max_items`` and ``max_bytes``: limits of one job. ``deadline_s``: the
    seconds that a job may take. ``max_resubmits``: how often a failed job is submitted again before it is split.
    ``keeps_results``: True if the API keeps jobs and results after a crash of the worker. ``ended``: the ended jobs, if
    jobs run in this process; None if only a poll can tell.
    """

    backend: str
    max_items: int
    max_bytes: int
    keeps_results: bool
    max_resubmits: int
    deadline_s: float
    ended: EndedCalls | None

    def submit(self, items: Sequence[Item]) -> str:
        """Submit a job, which is then billed, and return the API's id of the job."""

    def poll(self, job: str) -> JobResult | None:
        """Return the result of a job, or None while the job is running."""

    def cancel(self, job: str) -> bool:
        """Cancel a job. Return True if it will not run, False if it has ended or that is unknown."""

    def parse(self, answer: Any, items: Sequence[Item | None]) -> list[Reply | None]:
        """Return a reply for each item, in order. An item that is None belongs to another worker; its reply is ignored.

        Raises:
            MismatchedAnswerError: if the outputs in ``answer`` can't be assigned to ``items``.
        """

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""

    def poll_delay(self, polls: int) -> float:
        """Return the seconds to wait before the next poll of a job that was polled ``polls`` times."""
