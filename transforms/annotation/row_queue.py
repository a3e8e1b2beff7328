"""The queue between the threads that make rows and the generator that yields the rows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from ..core.records import Row

# Rows that wait for the consumer. Producers block in wait_for_room() at this number, so memory is bounded.
MAX_READY_ROWS = 64


class RowsClosed(Exception):
    """The consumer has closed the queue. Raised in the producers, to end them."""


class RowQueue:
    """Queue of rows from any number of producer threads to one consumer, which iterates over the queue."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._is_finished = self._is_closed = False
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()

    def put(self, row: Row) -> None:
        """Append a row without blocking, even beyond ``MAX_READY_ROWS``; drop the row after ``close``.

        Load threads call only this method. The end of a stream waits for them, so a blocked one would block it.
        """
        with self._changed:
            if not self._is_closed:
                self._rows.append(row)
                if len(self._rows) == 1:
                    # The consumer waits only while there is no row.
                    self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Block until fewer than ``MAX_READY_ROWS`` rows wait.

        Raises:
            RowsClosed: if the consumer has closed the queue.
        """
        if len(self._rows) < MAX_READY_ROWS and not self._is_closed:
            # Most of the time, and twice a row. The lock would cost more than the rest of this method.
            return
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._rows) < MAX_READY_ROWS)
            if self._is_closed:
                raise RowsClosed

    def finish(self, error: BaseException | None = None) -> None:
        """End the iteration after the rows that wait now; with an ``error``, raise that error in the consumer."""
        with self._changed:
            self._is_finished = True
            if error and not self._is_closed:
                self._errors.append(error)
            self._changed.notify_all()

    def close(self) -> None:
        """Drop all rows and end the producers. The consumer calls this when it stops early."""
        with self._changed:
            self._is_closed = True
            self._rows.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Row]:
        """Yield rows until ``finish``.

        Raises:
            BaseException: the error that ``finish`` was called with.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._is_finished)
                if not self._rows:
                    break
                row = self._rows.popleft()
                if len(self._rows) == MAX_READY_ROWS - 1:
                    # Producers wait only while there are more rows.
                    self._changed.notify_all()
            yield row
        if self._errors:
            # Popped: a reference from this frame to the error would be a cycle and keep the traceback's pictures alive.
            raise self._errors.pop()
