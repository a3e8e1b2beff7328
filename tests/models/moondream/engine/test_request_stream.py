"""A stream makes jobs ahead of the engine, within a number of jobs and a budget of pixels."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from moondream_beam.models.moondream.engine import request_stream
from moondream_beam.models.moondream.engine.request_stream import RequestStream
from moondream_beam.models.tasks import Caption, Fault, Request


class GatedCrops:
    """Makes crops when a permit is released; notes the sizes of the pictures."""

    def __init__(self):
        self.permits, self.sizes = threading.Semaphore(0), []

    def __call__(self, request):
        self.permits.acquire()
        self.sizes.append(request.picture.size)
        return request.picture.size


@pytest.fixture
def gated_crops():
    gated_crops = GatedCrops()
    yield gated_crops
    gated_crops.permits.release(100)


@pytest.fixture
def open_stream(gated_crops):
    with ThreadPoolExecutor(8) as crop_pool:

        def open_stream(requests, jobs_ahead=4):
            return RequestStream(
                requests, lambda request: None, gated_crops, crop_pool, threading.Condition(), "here", jobs_ahead
            )

        yield open_stream
        gated_crops.permits.release(100)


def requests_of(pictures):
    return [Request(str(number), picture, Caption()) for number, picture in enumerate(pictures)]


def eventually(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert condition()


def red(side=8):
    return Image.new("RGB", (side, side), "red")


def test_jobs_are_taken_in_order_once_their_crops_are_done(open_stream, gated_crops):
    found = open_stream(requests_of([red(), red(9), red(10)]))
    eventually(lambda: len(found.inbox) == 3)
    assert not found.is_ready and found.take(5) == []
    gated_crops.permits.release(3)
    eventually(lambda: all(job.crops.done() for job in found.inbox))
    assert [job.id for job in found.take(2)] == ["0", "1"]
    assert [job.id for job in found.take(2)] == ["2"]


def test_the_inbox_holds_at_most_jobs_ahead_jobs(open_stream, gated_crops):
    pulled = []
    found = open_stream((pulled.append(n) or Request(str(n), red(), Caption()) for n in range(100)), jobs_ahead=3)
    gated_crops.permits.release(100)
    eventually(lambda: len(found.inbox) == 3 and found.is_ready and len(pulled) == 4)
    time.sleep(0.05)
    assert len(found.inbox) == 3 and len(pulled) == 4
    found.take(2)
    eventually(lambda: len(found.inbox) == 3)
    found.close()


def test_pictures_that_wait_for_crops_stay_within_the_pixel_budget(open_stream, gated_crops, monkeypatch):
    monkeypatch.setattr(request_stream, "PIXELS_AHEAD", 2 * 64)
    found = open_stream(requests_of([red() for _ in range(5)]), jobs_ahead=50)
    eventually(lambda: len(found.inbox) == 2)
    time.sleep(0.05)
    assert len(found.inbox) == 2
    gated_crops.permits.release(1)
    eventually(lambda: len(found.inbox) == 3)


def test_a_picture_larger_than_the_budget_waits_for_crops_alone(open_stream, gated_crops, monkeypatch):
    monkeypatch.setattr(request_stream, "PIXELS_AHEAD", 64)
    found = open_stream(requests_of([red(100), red(100)]), jobs_ahead=50)
    eventually(lambda: len(found.inbox) == 1)
    time.sleep(0.05)
    assert len(found.inbox) == 1
    gated_crops.permits.release(2)
    eventually(lambda: len(found.inbox) == 2)


def test_consecutive_requests_of_one_picture_share_its_crops(open_stream, gated_crops):
    first, second = red(8), red(9)
    found = open_stream(requests_of([first, first, second]))
    gated_crops.permits.release(3)
    eventually(lambda: len(found.inbox) == 3 and found.inbox[2].crops.done())
    assert found.inbox[0].crops is found.inbox[1].crops is not found.inbox[2].crops
    assert sorted(gated_crops.sizes) == [(8, 8), (9, 9)]


def test_a_request_with_a_bad_picture_is_a_fault_at_once(open_stream):
    found = open_stream(requests_of([Image.new("L", (8, 8)), Image.new("RGB", (0, 4))]))
    eventually(lambda: len(found.outbox) == 2)
    assert all(isinstance(outcome.result, Fault) and outcome.backend == "here" for outcome in found.outbox)
    assert not found.is_over
    found.outbox.clear()
    eventually(lambda: found.is_over)


def test_a_stream_is_over_only_when_taken_jobs_have_outcomes(open_stream, gated_crops):
    found = open_stream(requests_of([red()]))
    gated_crops.permits.release(1)
    eventually(lambda: found.is_ready and found.exhausted)
    (job,) = found.take(1)
    assert not found.is_over
    found.finish(job)
    found.outbox.clear()
    assert found.is_over


def test_close_stops_the_thread_that_pulls_requests(open_stream, gated_crops):
    pulled = []
    found = open_stream((pulled.append(n) or Request(str(n), red(), Caption()) for n in range(100)), jobs_ahead=2)
    eventually(lambda: len(found.inbox) == 2)
    found.close()
    eventually(lambda: found.exhausted)
    assert not found.inbox and len(pulled) <= 4
