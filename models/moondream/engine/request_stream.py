"""The requests of one caller, pulled and made ready in a thread of their own, ahead of the engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from PIL.Image import Image

from ...tasks import Fault, Outcome, Request
from ..network.crops import Crops
from .generate import Row
from .jobs import Cut, Job, check

# Pixels of the pictures that wait to be cut: they may be anybody's, and a gigabyte each.
PIXELS_AHEAD = 256 << 20


class RequestStream:
    """Jobs made of a caller's requests, in ``inbox``, and what became of them, in ``outbox``.

    It keeps ``jobs_ahead`` jobs ready and no more. ``turn`` guards both boxes, and is notified when either has changed.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        new_row: Callable[[Request], Row],
        cut: Callable[[Request], Crops],
        cutters: Executor,
        turn: threading.Condition,
        backend: str,
        jobs_ahead: int,
    ) -> None:
        self.requests, self.backend = requests, backend
        self.new_row, self.cut, self.cutters = new_row, cut, cutters
        self.turn, self.jobs_ahead = turn, jobs_ahead
        self.inbox: deque[Job] = deque()
        self.outbox: deque[Outcome] = deque()
        # Jobs that the engine has taken and not settled.
        self.taken = 0
        self.exhausted = self.closed = False
        self.error: BaseException | None = None
        self._uncut_pixels = 0
        threading.Thread(target=self._feed, name="requests", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether nothing is to come any more."""
        return self.error is not None or (self.exhausted and not (self.inbox or self.taken or self.outbox))

    @property
    def is_ready(self) -> bool:
        """Whether there is a job whose picture is cut."""
        return bool(self.inbox) and self.inbox[0].cut.done()

    def take(self, most: int) -> list[Job]:
        """Jobs that are ready, in order."""
        with self.turn:
            jobs: list[Job] = []
            while self.is_ready and len(jobs) < most:
                jobs.append(self.inbox.popleft())
            self.taken += len(jobs)
            self.turn.notify_all()
            return jobs

    def put_back(self, job: Job) -> None:
        """Take back a job that was taken, to be answered anew before all others."""
        job.restart()
        with self.turn:
            self.inbox.appendleft(job)
            self.taken -= 1

    def settle(self, outcome: Outcome, taken: bool = True) -> None:
        """Hand out what became of a request: one that was taken, or one that came to nothing before."""
        with self.turn:
            self.outbox.append(outcome)
            self.taken -= taken
            self.turn.notify_all()

    def close(self) -> None:
        """Nobody listens any more."""
        with self.turn:
            self.closed = True
            self.inbox.clear()
            self.turn.notify_all()

    def _feed(self) -> None:
        try:
            self._pull()
        except BaseException as error:  # Whatever it is, it is the caller's, and is raised in the caller's thread.
            self.error = error
        with self.turn:
            self.exhausted = True
            self.turn.notify_all()

    def _pull(self) -> None:
        last: Image | None = None
        cut: Cut | None = None
        for request in self.requests:
            try:
                check(request)
                row = self.new_row(request)
            except Exception as error:  # A picture of the wrong kind, or a prompt that can't be fed.
                self.settle(Outcome(request.id, Fault.of(error), self.backend), taken=False)
                continue
            if cut is None or request.picture is not last:
                cut, last = self._cut_ahead(request), request.picture
            if not self._add(Job(request.id, request.task, cut, row)):
                return

    def _cut_ahead(self, request: Request) -> Cut:
        """Have a picture cut, once there is room for its pixels; one larger than all the room has it alone."""
        pixels = request.picture.width * request.picture.height
        with self.turn:
            self.turn.wait_for(
                lambda: self.closed or not self._uncut_pixels or self._uncut_pixels + pixels <= PIXELS_AHEAD
            )
            self._uncut_pixels += pixels
        cut = self.cutters.submit(self.cut, request)
        cut.add_done_callback(lambda _: self._make_room(pixels))
        return cut

    def _make_room(self, pixels: int) -> None:
        with self.turn:
            self._uncut_pixels -= pixels
            self.turn.notify_all()

    def _add(self, job: Job) -> bool:
        """Put a job into the inbox, once there is room; False where nobody listens any more."""
        with self.turn:
            self.turn.wait_for(lambda: self.closed or len(self.inbox) < self.jobs_ahead)
            if not self.closed:
                self.inbox.append(job)
                self.turn.notify_all()
            return not self.closed
