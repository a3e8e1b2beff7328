"""What the caller needs of an API: jobs that are submitted, asked after, cancelled and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..tasks import Answer, Fault, Request, Task, Timings, Tokens
from .http.images import Encoder, data_uri, public_url


class Settings(NamedTuple):
    """How the words of one job are drawn; only requests with the same settings share one."""

    max_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float


@dataclass(eq=False)
class Item:
    """One request on its way: its picture is ``jpeg``, or lies at ``url``; ``uploaded`` is where the API keeps a copy.

    ``units`` and ``usd`` are its part of what all jobs that it was in were billed; ``estimated`` where the API did not
    tell.
    """

    id: str
    task: Task
    settings: Settings
    jpeg: bytes
    url: str | None
    arrived: float
    sent: float = 0.0
    units: float = 0.0
    usd: float = 0.0
    estimated: bool = False
    uploaded: str | None = None

    @classmethod
    def of(cls, request: Request, now: float, jpeg_of: Encoder, send_urls: bool) -> Item:
        """The item of a request; the decoded picture is not kept.

        Raises:
            ValueError: the picture can't be sent.
        """
        drawn = request.sampling
        settings = Settings(
            drawn.budget(request.task), float(drawn.temperature), float(drawn.top_p), float(drawn.repetition_penalty)
        )
        url = public_url(request.uri) if send_urls else None
        return cls(request.id, request.task, settings, b"" if url else jpeg_of(request.picture), url, now)

    def is_named(self, text: str) -> bool:
        """Whether this is how the API was told of the picture."""
        return text in (self.url, self.uploaded) or bool(self.jpeg and text == data_uri(self.jpeg))

    @property
    def size(self) -> int:
        """Bytes of the picture in a body: base64 takes four for three."""
        return len(self.url or "") + 4 * len(self.jpeg) // 3


class Done(NamedTuple):
    """The end of a job: the API's JSON, and what it billed (None: it did not tell; ``usd`` None: no price is known)."""

    answer: Any
    units: float | None
    usd: float | None


class Reply(NamedTuple):
    """What a job says of one of its items; ``response`` is the rest of what the API tells of it, as JSON."""

    result: Answer | Fault
    timings: Timings = Timings()
    tokens: Tokens = Tokens()
    response: str | None = None


class Service(Protocol):
    """One API. All errors are those of ends.py.

    ``remembers``: it keeps jobs and their answers for a while; otherwise an answer comes with the call or never.
    ``job_tries``: how often a job that it failed at is sent again. ``deadline_s``: how long a job may take.
    """

    backend: str
    most_items: int
    most_bytes: int
    remembers: bool
    job_tries: int
    deadline_s: float

    def submit(self, items: Sequence[Item]) -> str:
        """Send a job; its id. This is what is paid for."""

    def poll(self, job: str) -> Done | None:
        """How the job is: None while it goes on."""

    def cancel(self, job: str) -> bool:
        """Ask for its end, if it is still on its way; False where it had ended or nobody knows."""

    def read(self, answer: Any, items: Sequence[Item | None]) -> list[Reply]:
        """One reply for each place of a job. Where it was taken up again, an item may not have come (yet).

        Raises:
            UnfitError: the answer doesn't fit so many questions.
        """

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""

    def pause(self, polls: int) -> float:
        """Seconds to wait before asking after a job once more, which was asked after ``polls`` times."""
