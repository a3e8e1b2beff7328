"""Read the requests of a stream ahead of the dispatcher, and encode their pictures in threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from PIL.Image import Image

from ...pixel_budget import BudgetClosed, PixelBudget
from ...tasks import Fault, Outcome, Request
from ..service import EndedCalls, Item
from .results import SharedState

# Requests that wait for the dispatcher, at most as many as are in flight, because all calls may end at once. With more,
# an interrupted run would wait for more answers.
REQUESTS_AHEAD = 32
# Pixels of the pictures that wait for an encoder: 512 MiB in Pillow's 4 bytes a pixel.
PIXELS_AHEAD = 128 << 20
ENCODERS = min(8, os.cpu_count() or 1)


class ReadRequest(NamedTuple):
    """A request that was read: its item, which has no JPEG yet, or the outcome of a request that has no item.

    ``jpeg``: the picture, which other items may share; None for an item with a URL and for an outcome.
    """

    result: Item | Outcome
    jpeg: Future[bytes] | None


class RequestReader:
    """The requests of one stream, in order, each with its picture as JPEG.

    A thread pulls ``requests``. Consecutive requests about one picture share one encoding and one JPEG.
    ``changed``: is notified when a call has ended, and when ``pop`` has a result for a dispatcher that is in ``wait``.
    """

    def __init__(self, state: SharedState, requests: Iterable[Request]) -> None:
        self.changed = state.service.ended or EndedCalls()
        self._state, self._requests = state, requests
        self._max_ahead = min(REQUESTS_AHEAD, state.limiter.max_in_flight * state.service.max_items)
        self._inbox: deque[ReadRequest] = deque()
        self._has_room = threading.Condition()
        self._pixels = PixelBudget(PIXELS_AHEAD)
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="jpeg")
        self._is_exhausted = self._is_closed = self._is_awaited = False
        self._errors: list[BaseException] = []
        # A daemon thread, because a source that never answers would keep the process alive at exit.
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)

    def start(self) -> None:
        """Start to read."""
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether ``pop`` has returned all requests."""
        return self._is_exhausted and not self._inbox and not self._errors

    @property
    def is_ready(self) -> bool:
        """Whether the next request has its JPEG, or there is no next request."""
        with self._has_room:
            if not self._inbox:
                return self._is_exhausted
            jpeg = self._inbox[0].jpeg
            return jpeg is None or jpeg.done()

    def pop(self) -> Item | Outcome | None:
        """Remove and return the next request as an item, or its outcome if it can't be prepared or encoded.

        Returns:
            None if the next request is not ready, or there is none.

        Raises:
            BaseException: the error of the iterator over the requests, after the requests before it.
        """
        if not self.is_ready:
            return None
        if not self._inbox:
            if self._errors:
                # Popped: a reference from this frame to the error would be a cycle, which keeps pictures in memory.
                raise self._errors.pop()
            return None
        with self._has_room:
            item, jpeg = self._inbox.popleft()
            self._has_room.notify()
        if jpeg is None or isinstance(item, Outcome):
            return item
        try:
            item.jpeg = jpeg.result()
        except Exception as error:  # Pillow raises many types for a picture that is damaged.
            return Outcome(item.id, Fault.of(error), self._state.service.backend)
        return item

    def wait(self, seen: int, seconds: float) -> None:
        """Block until ``is_ready``, or until a call has ended since ``changed.count`` was ``seen``, or ``seconds``."""
        self._is_awaited = True
        try:
            # The reader looks at _is_awaited after each change, so no change between this line and the wait is lost.
            if not self.is_ready:
                self.changed.wait(seen, seconds)
        finally:
            self._is_awaited = False

    def close(self) -> None:
        """End the thread before its next request. Return without waiting for the thread."""
        with self._has_room:
            self._is_closed = True
            self._inbox.clear()
            self._has_room.notify()
            self._encoders.shutdown(wait=False, cancel_futures=True)
        self._pixels.close()

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # ``pop`` raises an error of the caller's iterator in the caller's thread.
            if not self._is_closed:
                self._errors.append(error)
        self._is_exhausted = True
        self._notify()

    def _read(self) -> None:
        last: Image | None = None
        jpeg: Future[bytes] | None = None
        for request in self._requests:
            try:
                item = self._state.prepare(request)
            except Exception as error:  # Any error in one request is the fault of that request alone.
                fault = Fault.of(error)
                read = ReadRequest(Outcome(request.id, fault, self._state.service.backend), None)
            else:
                if not item.url and (jpeg is None or request.picture is not last):
                    last, jpeg = request.picture, self._start_encoding(request.picture)
                read = ReadRequest(item, None if item.url else jpeg)
            if not self._append(read):
                return
            self._notify()

    def _start_encoding(self, picture: Image) -> Future[bytes]:
        """Block until the pixels of a picture fit ``PIXELS_AHEAD``, and give the picture to an encoder.

        Raises:
            BudgetClosed: if the reader is closed.
        """
        pixels = picture.width * picture.height
        self._pixels.acquire(pixels)
        with self._has_room:
            if self._is_closed:
                raise BudgetClosed("the reader is closed")
            jpeg = self._encoders.submit(self._state.encode, picture)
        jpeg.add_done_callback(lambda _: self._on_encoded(pixels))
        return jpeg

    def _on_encoded(self, pixels: int) -> None:
        self._pixels.release(pixels)
        self._notify()

    def _append(self, read: ReadRequest) -> bool:
        """Block until fewer than ``_max_ahead`` requests wait, and append one. Return False if closed."""
        with self._has_room:
            self._has_room.wait_for(lambda: self._is_closed or len(self._inbox) < self._max_ahead)
            if not self._is_closed:
                self._inbox.append(read)
            return not self._is_closed

    def _notify(self) -> None:
        """Wake the dispatcher if it waits for the next request, and that request is ready."""
        if self._is_awaited and self.is_ready:
            self.changed.notify()
