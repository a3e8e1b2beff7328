"""Services that answer one request per call: each call runs in a thread, and its end wakes the dispatcher."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from time import monotonic

from ..http.errors import JobNotFoundError
from ..service import EndedCalls, Item, JobResult

# The end of a call wakes the dispatcher, so polls are only needed for the deadline of a job.
POLL_S = 0.25
Work = tuple[str, "Future[JobResult]", Callable[[], JobResult]]


class CallService:
    """Base of the services whose job is one call. An answer that does not arrive can't be asked for later.

    ``threads``: how many calls run at the same time. ``name``: of the threads. ``cancel_wait_s``: how long the end of a
    stream waits for its calls in flight, because their answers are billed.
    """

    max_items, max_bytes, keeps_results = 1, 1 << 62, False

    def __init__(self, threads: int, name: str, cancel_wait_s: float) -> None:
        self.threads, self.cancel_wait_s = threads, cancel_wait_s
        self.ended: EndedCalls | None = EndedCalls()
        self._name = name
        self._calls: dict[str, Future[JobResult]] = {}
        self._queue: SimpleQueue[Work | None] | None = None
        self._num_threads = 0
        self._lock = threading.Lock()
        self._cancel_deadline: float | None = None

    def submit(self, items: Sequence[Item]) -> str:
        """Start a call for the one item, and return an id that is valid in this process only."""
        (item,) = items
        job, future = uuid.uuid4().hex, Future[JobResult]()
        with self._lock:
            if self._queue is None:
                self._queue, self._num_threads, self._cancel_deadline = SimpleQueue(), 0, None
            call = self._prepare_call(item)
            self._calls[job] = future
            if self._num_threads < min(self.threads, len(self._calls)):
                self._num_threads += 1
                # Daemon threads, because a process that is interrupted must not wait for calls in flight.
                threading.Thread(target=self._work, args=(self._queue,), name=self._name, daemon=True).start()
            self._queue.put((job, future, call))
        return job

    def poll(self, job: str) -> JobResult | None:
        """Return the result of a call, or None while the call is running. Raise the call's error if it failed.

        Raises:
            JobNotFoundError: if another process started the call.
        """
        call = self._calls.get(job)
        if call is None:
            raise JobNotFoundError(f"call {job}: the process that waited for its answer has ended")
        if not call.done():
            return None
        self._remove(job)
        return call.result()

    def cancel(self, job: str) -> bool:
        """Cancel a call and return True if it has not started. Otherwise wait for its end and return False.

        All calls that are cancelled at the end of a stream wait for at most ``cancel_wait_s`` seconds together.
        """
        call = self._calls.get(job)
        if call is None:
            return False
        if call.cancel():
            self._remove(job)
            return True
        self._cancel_deadline = self._cancel_deadline or monotonic() + self.cancel_wait_s
        wait([call], timeout=max(0.0, self._cancel_deadline - monotonic()))
        return False

    def close(self) -> None:
        """Close the connections without a wait for calls in flight. The next call opens new ones."""
        with self._lock:
            queue, self._queue = self._queue, None
            for call in self._calls.values():
                call.cancel()
            self._calls.clear()
            self._disconnect()
        if queue is not None:
            for _ in range(self._num_threads):
                queue.put(None)

    def poll_delay(self, polls: int) -> float:
        """Return 0.25 seconds, because a poll makes no call and the end of a call wakes the dispatcher."""
        return POLL_S

    def _remove(self, job: str) -> None:
        with self._lock:
            self._calls.pop(job, None)
        if self.ended is not None:
            self.ended.discard(job)

    def _work(self, queue: SimpleQueue[Work | None]) -> None:
        """Make the calls of ``queue`` until it contains None."""
        while (work := queue.get()) is not None:
            job, future, call = work
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # The dispatcher raises it when it polls the call.
                future.set_exception(error)
            if self.ended is not None:
                self.ended.add(job)

    def _prepare_call(self, item: Item) -> Callable[[], JobResult]:
        """Open the connections if they are closed, and return the function that makes the call for an item."""
        raise NotImplementedError

    def _disconnect(self) -> None:
        """Close the connections."""
        raise NotImplementedError
