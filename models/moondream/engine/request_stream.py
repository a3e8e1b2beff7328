"""The requests of one caller, turned into jobs by a thread that works ahead of the engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from PIL.Image import Image

from ...pixel_budget import BudgetClosed, PixelBudget
from ...tasks import Fault, Outcome, Request
from ..network.crops import Crops
from .decoding.row import Row
from .jobs import CropsFuture, Job, check_picture

# Pixels of the pictures that wait for their crops. One picture may have a gigabyte of pixels.
PIXELS_AHEAD = 256 << 20


class RequestStream:
    """The jobs of one caller that wait for the engine (``inbox``), and their outcomes (``outbox``).

    A thread pulls ``requests``, makes the row of each with ``new_row`` and its crops with ``make_crops`` in
    ``crop_pool``, and appends the job to ``inbox``. The thread waits while ``inbox`` holds ``jobs_ahead`` jobs.
    ``condition`` guards both boxes and is notified when either changes and when crops are done. ``backend`` names the
    engine in outcomes.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        new_row: Callable[[Request], Row],
        make_crops: Callable[[Request], Crops],
        crop_pool: Executor,
        condition: threading.Condition,
        backend: str,
        jobs_ahead: int,
    ) -> None:
        self.requests, self.backend = requests, backend
        self.new_row, self.make_crops, self.crop_pool = new_row, make_crops, crop_pool
        self.condition, self.jobs_ahead = condition, jobs_ahead
        self.inbox: deque[Job] = deque()
        self.outbox: deque[Outcome] = deque()
        # Jobs that the engine has taken and neither finished nor put back.
        self.num_in_flight = 0
        self.exhausted = self.closed = False
        self.error: BaseException | None = None
        self._pixels = PixelBudget(PIXELS_AHEAD)
        threading.Thread(target=self._run, name="requests", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether no outcome can follow: ``error`` is set, or all requests have ended and ``outbox`` is empty."""
        return self.error is not None or (self.exhausted and not (self.inbox or self.num_in_flight or self.outbox))

    @property
    def is_ready(self) -> bool:
        """Whether the first job of the inbox has its crops."""
        return bool(self.inbox) and self.inbox[0].crops.done()

    def take(self, max_jobs: int) -> list[Job]:
        """Remove from the inbox and return at most ``max_jobs`` jobs, in order, up to the first without crops."""
        with self.condition:
            jobs: list[Job] = []
            while self.is_ready and len(jobs) < max_jobs:
                jobs.append(self.inbox.popleft())
            self.num_in_flight += len(jobs)
            self.condition.notify_all()
            return jobs

    def put_back(self, job: Job) -> None:
        """Restart a job that was taken, and put it at the front of the inbox."""
        job.restart()
        with self.condition:
            self.inbox.appendleft(job)
            self.num_in_flight -= 1

    def finish(self, outcome: Outcome, was_taken: bool = True) -> None:
        """Add an outcome to the outbox. ``was_taken`` is False for a request that never became a job."""
        with self.condition:
            self.outbox.append(outcome)
            self.num_in_flight -= was_taken
            self.condition.notify_all()

    def close(self) -> None:
        """Empty the inbox and make the thread end before its next job. Return without waiting for the thread.

        The thread pulls at most one more request. The engine drops the jobs that it has taken, without outcomes.
        """
        with self.condition:
            self.closed = True
            self.inbox.clear()
            self.condition.notify_all()
        self._pixels.close()

    def _run(self) -> None:
        """Append a job to ``inbox`` for each request, or a ``Fault`` to ``outbox`` if the request is bad.

        The end comes when the requests end, the stream is closed, or the caller's iterator raises; ``exhausted`` is
        then True. An error of the iterator is stored in ``error``, and ``Engine.answer`` raises it to the caller.
        """
        try:
            self._make_jobs()
        except BudgetClosed:
            pass
        except BaseException as error:  # The caller's iterator raised it: the caller's thread raises it again.
            self.error = error
        with self.condition:
            self.exhausted = True
            self.condition.notify_all()

    def _make_jobs(self) -> None:
        last: Image | None = None
        crops: CropsFuture | None = None
        for request in self.requests:
            try:
                check_picture(request)
                row = self.new_row(request)
            except Exception as error:  # Any error in one request is the fault of that request alone.
                self.finish(Outcome(request.id, Fault.of(error), self.backend), was_taken=False)
                continue
            if crops is None or request.picture is not last:
                crops, last = self._start_crops(request), request.picture
            if not self._enqueue(Job(request.id, request.task, crops, row)):
                return

    def _start_crops(self, request: Request) -> CropsFuture:
        """Block until the pixels of the picture fit ``PIXELS_AHEAD``, then submit it to ``crop_pool``.

        Raises:
            BudgetClosed: if the stream is closed.
        """
        pixels = request.picture.width * request.picture.height
        self._pixels.acquire(pixels)
        crops = self.crop_pool.submit(self.make_crops, request)
        crops.add_done_callback(lambda _: self._on_crops_done(pixels))
        return crops

    def _on_crops_done(self, pixels: int) -> None:
        self._pixels.release(pixels)
        with self.condition:
            self.condition.notify_all()

    def _enqueue(self, job: Job) -> bool:
        """Block, without a time limit, until ``inbox`` has fewer than ``jobs_ahead`` jobs, and append the job.

        Returns:
            False, and the job is not appended, if the stream is closed before or during the wait.
        """
        with self.condition:
            self.condition.wait_for(lambda: self.closed or len(self.inbox) < self.jobs_ahead)
            if not self.closed:
                self.inbox.append(job)
                self.condition.notify_all()
            return not self.closed
