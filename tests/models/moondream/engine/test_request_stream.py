"""A stream makes jobs ready ahead of the engine: as many as it may, and no more pixels than there is room for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from moondream_beam.models.moondream.engine import request_stream
from moondream_beam.models.moondream.engine.request_stream import RequestStream
from moondream_beam.models.tasks import Caption, Fault, Request


class Knife:
    """Cuts when told to."""

    def __init__(self):
        self.may_cut, self.cut_sizes = threading.Semaphore(0), []

    def __call__(self, request):
        self.may_cut.acquire()
        self.cut_sizes.append(request.picture.size)
        return request.picture.size


@pytest.fixture
def knife():
    knife = Knife()
    yield knife
    knife.may_cut.release(100)


@pytest.fixture
def open_stream(knife):
    with ThreadPoolExecutor(8) as cutters:

        def open_stream(requests, jobs_ahead=4):
            return RequestStream(
                requests, lambda request: None, knife, cutters, threading.Condition(), "here", jobs_ahead
            )

        yield open_stream
        knife.may_cut.release(100)


def requests_of(pictures):
    return [Request(str(number), picture, Caption()) for number, picture in enumerate(pictures)]


def eventually(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


def red(side=8):
    return Image.new("RGB", (side, side), "red")


def test_jobs_come_in_order_once_their_pictures_are_cut(open_stream, knife):
    found = open_stream(requests_of([red(), red(9), red(10)]))
    eventually(lambda: len(found.inbox) == 3)
    assert not found.is_ready and found.take(5) == []
    knife.may_cut.release(3)
    eventually(lambda: all(job.cut.done() for job in found.inbox))
    assert [job.id for job in found.take(2)] == ["0", "1"]
    assert [job.id for job in found.take(2)] == ["2"]


def test_it_keeps_so_many_ready_and_no_more(open_stream, knife):
    pulled = []
    found = open_stream((pulled.append(n) or Request(str(n), red(), Caption()) for n in range(100)), jobs_ahead=3)
    knife.may_cut.release(100)
    eventually(lambda: len(found.inbox) == 3 and found.is_ready)
    time.sleep(0.05)
    assert len(found.inbox) == 3 and len(pulled) == 4
    found.take(2)
    eventually(lambda: len(found.inbox) == 3)
    found.close()


def test_pictures_that_wait_to_be_cut_fit_the_room_for_pixels(open_stream, knife, monkeypatch):
    monkeypatch.setattr(request_stream, "PIXELS_AHEAD", 2 * 64)
    found = open_stream(requests_of([red() for _ in range(5)]), jobs_ahead=50)
    eventually(lambda: len(found.inbox) == 2)
    time.sleep(0.05)
    assert len(found.inbox) == 2
    knife.may_cut.release(1)
    eventually(lambda: len(found.inbox) == 3)


def test_a_picture_larger_than_the_room_has_it_alone(open_stream, knife, monkeypatch):
    monkeypatch.setattr(request_stream, "PIXELS_AHEAD", 64)
    found = open_stream(requests_of([red(100), red(100)]), jobs_ahead=50)
    eventually(lambda: len(found.inbox) == 1)
    time.sleep(0.05)
    assert len(found.inbox) == 1
    knife.may_cut.release(2)
    eventually(lambda: len(found.inbox) == 2)


def test_requests_of_one_picture_share_its_crops(open_stream, knife):
    first, second = red(8), red(9)
    found = open_stream(requests_of([first, first, second]))
    knife.may_cut.release(3)
    eventually(lambda: len(found.inbox) == 3 and found.inbox[2].cut.done())
    assert found.inbox[0].cut is found.inbox[1].cut is not found.inbox[2].cut
    assert sorted(knife.cut_sizes) == [(8, 8), (9, 9)]


def test_what_can_not_be_a_job_is_an_outcome_at_once(open_stream):
    found = open_stream(requests_of([Image.new("L", (8, 8)), Image.new("RGB", (0, 4))]))
    eventually(lambda: len(found.outbox) == 2)
    assert all(isinstance(outcome.result, Fault) and outcome.backend == "here" for outcome in found.outbox)
    assert not found.is_over
    found.outbox.clear()
    eventually(lambda: found.is_over)


def test_it_is_over_only_when_what_was_taken_is_settled(open_stream, knife):
    found = open_stream(requests_of([red()]))
    knife.may_cut.release(1)
    eventually(lambda: found.is_ready and found.exhausted)
    (job,) = found.take(1)
    assert not found.is_over
    found.settle(job)
    found.outbox.clear()
    assert found.is_over


def test_closed_while_it_waits_it_pulls_no_further(open_stream, knife):
    pulled = []
    found = open_stream((pulled.append(n) or Request(str(n), red(), Caption()) for n in range(100)), jobs_ahead=2)
    eventually(lambda: len(found.inbox) == 2)
    found.close()
    eventually(lambda: found.exhausted)
    assert not found.inbox and len(pulled) <= 4
