"""The queue of rows: bounded for producers that wait, closed by the consumer, ended with or without an error."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from moondream_beam.transforms.annotation.row_queue import MAX_READY_ROWS, RowQueue, RowsClosed


def filled(count: int) -> RowQueue:
    """A queue with the rows 0, 1, 2, ..."""
    rows = RowQueue()
    for number in range(count):
        put(rows, number)
    return rows


def put(rows: RowQueue, row: Any) -> None:
    rows.put(row)


def test_rows_come_in_order_until_the_end() -> None:
    rows = filled(3)
    rows.finish()
    assert list(rows) == [0, 1, 2]
    assert list(rows) == []


def test_an_error_is_raised_after_the_rows_before_it() -> None:
    rows = filled(2)
    rows.finish(LookupError("lost"))
    found = iter(rows)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(LookupError, match="lost"):
        next(found)


def test_a_producer_waits_until_there_is_room_and_put_never_waits() -> None:
    rows = filled(2 * MAX_READY_ROWS)
    has_room = threading.Event()

    def produce() -> None:
        rows.wait_for_room()
        has_room.set()
        rows.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    found = iter(rows)
    for _ in range(MAX_READY_ROWS):
        next(found)
    assert not has_room.wait(0.1)
    next(found)
    assert has_room.wait(10)
    thread.join()
    assert len(list(found)) == MAX_READY_ROWS - 1


def test_closing_drops_the_rows_and_ends_a_producer_that_waits() -> None:
    rows = filled(MAX_READY_ROWS)
    ended: list[BaseException] = []

    def produce() -> None:
        try:
            rows.wait_for_room()
        except RowsClosed as error:
            ended.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    rows.close()
    thread.join(10)
    assert len(ended) == 1
    put(rows, "too late")
    with pytest.raises(RowsClosed):
        rows.wait_for_room()
    rows.finish(LookupError("too late"))
    assert list(rows) == []
