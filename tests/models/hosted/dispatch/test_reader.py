"""Requests are read and encoded ahead of the dispatcher: within limits, once for each picture, and in order."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections import Counter

import pytest
from PIL import Image
from support.hosted.faults import Fault
from support.hosted.pictures import numbered
from support.hosted.queries import expected, requests, results_of
from support.servers.chat.server import chat_server

from moondream_beam import OpenAIServer
from moondream_beam.models.hosted.dispatch.reader import REQUESTS_AHEAD
from moondream_beam.models.tasks import Query, Request

TIMEOUT_S = 20


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server():
    with chat_server() as server:
        yield server


class Shrinking(OpenAIServer):
    """Calls ``on_shrink`` with each picture that is encoded."""

    def __init__(self, *args, on_shrink, **kwargs):
        super().__init__(*args, **kwargs)
        self.on_shrink = on_shrink

    def shrink(self, picture):
        self.on_shrink(picture)
        return super().shrink(picture)


def held(server, until):
    """Make the server keep back all answers until the event is set."""

    def waits(exchange, response):
        assert until.wait(TIMEOUT_S)
        return response

    server.faults.append(Fault("chat", waits, before=False, times=10_000))


def test_questions_about_one_picture_share_its_encoding(server):
    encoded = Counter()
    pictures = [numbered(number) for number in range(6)]
    asked = [Request(f"{n} {q}", picture, Query(q)) for n, picture in enumerate(pictures) for q in ("What?", "Why?")]
    annotator = Shrinking(server.url, on_shrink=lambda picture: encoded.update([id(picture)]))
    texts = {outcome.id: outcome.result.text for outcome in annotator.answer(asked)}
    assert texts == {f"{number} {q}": f"{q} | {number}" for number in range(6) for q in ("What?", "Why?")}
    assert encoded == Counter(map(id, pictures))


def test_pictures_are_encoded_in_several_threads(server, monkeypatch):
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.reader.ENCODERS", 2)
    together = threading.Barrier(2)
    annotator = Shrinking(server.url, on_shrink=lambda _: together.wait(TIMEOUT_S))
    assert results_of(annotator.answer(requests(6))) == expected(6)


def test_a_picture_that_takes_long_to_encode_holds_up_no_answer(server):
    answered = threading.Event()
    asked = requests(3)
    annotator = Shrinking(
        server.url, on_shrink=lambda picture: picture is asked[2].picture and answered.wait(TIMEOUT_S)
    )
    outcomes = []
    for outcome in annotator.answer(asked):
        assert outcome.id != "r2" or answered.is_set()
        outcomes.append(outcome)
        if len(outcomes) == 2:
            answered.set()
    assert results_of(outcomes) == expected(3)


def test_a_slow_source_holds_up_no_answer(server):
    answered = threading.Event()

    def slow():
        yield from requests(2)
        assert answered.wait(TIMEOUT_S)
        yield from requests([2])

    outcomes = []
    for outcome in OpenAIServer(server.url).answer(slow()):
        outcomes.append(outcome)
        if len(outcomes) == 2:
            answered.set()
    assert results_of(outcomes) == expected(3)


@pytest.mark.parametrize("in_flight, ahead", [(4, 4), (40, REQUESTS_AHEAD)])
def test_only_so_many_requests_are_read_ahead(server, in_flight, ahead):
    pulled, enough = [], threading.Event()

    def endless():
        for number in range(10_000):
            pulled.append(number)
            if len(pulled) == in_flight + ahead:
                enough.set()
            yield from requests([number])

    held(server, enough)
    stream = OpenAIServer(server.url, concurrency=in_flight).answer(endless())
    for number_yielded, _ in enumerate(itertools.islice(stream, 5), 1):
        # Of the requests that were sent, as many may have an outcome that waits. The thread holds one more request.
        assert len(pulled) <= number_yielded + 2 * in_flight + ahead + 1
    assert len(pulled) >= in_flight + ahead
    stream.close()


def test_only_so_many_pixels_wait_for_an_encoder(server, monkeypatch):
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.reader.PIXELS_AHEAD", 3 * 64 * 64)
    pulled, most = [], []
    is_encoding, go_on = threading.Event(), threading.Event()

    def many():
        for request in requests(20):
            pulled.append(request.id)
            if len(pulled) == 4:
                is_encoding.set()
            yield request

    def waits(_):
        assert is_encoding.wait(TIMEOUT_S) and go_on.wait(TIMEOUT_S)
        most.append(len(pulled))

    opener = threading.Timer(0.3, go_on.set)
    opener.start()
    assert results_of(Shrinking(server.url, on_shrink=waits).answer(many())) == expected(20)
    opener.join()
    # Three pictures fit, and the thread holds a fourth one while it waits.
    assert most[0] == 4


def test_the_pixels_of_a_picture_are_freed_once_it_is_encoded(server):
    go_on, seen = threading.Event(), []

    def numbers():
        for number in range(8):
            picture = numbered(number)
            seen.append(weakref.ref(picture))
            yield Request(f"r{number}", picture, Query())
            del picture
        # All but the last picture, which the next request may have too.
        while any(reference() is not None for reference in seen[:-1]):
            gc.collect()
        go_on.set()

    held(server, go_on)
    assert len(results_of(OpenAIServer(server.url).answer(numbers()))) == 8


def test_an_error_of_the_requests_is_raised_after_those_before_it(server):
    def broken():
        yield from requests(3)
        raise KeyError("the source is broken")

    outcomes = []
    with pytest.raises(KeyError, match="the source is broken"):
        for outcome in OpenAIServer(server.url, concurrency=1).answer(broken()):
            outcomes.append(outcome)
    assert len(outcomes) >= 2


def test_a_picture_that_cannot_be_encoded_is_a_fault_of_its_requests_alone(server):
    bad = Image.new("RGBA", (4, 4))
    asked = [*requests(2), Request("bad 1", bad, Query()), Request("bad 2", bad, Query("Why?")), *requests([2])]
    results = {outcome.id: outcome.result for outcome in OpenAIServer(server.url).answer(asked)}
    faults = [results.pop(name) for name in ("bad 1", "bad 2")]
    assert {fault.error for fault in faults} == {"ValueError"} and "convert it to RGB" in faults[0].message
    assert {name: answer.text for name, answer in results.items()} == {f"r{n}": expected(3)[n] for n in range(3)}


def test_a_stream_that_is_closed_reads_no_more(server):
    pulled = []

    def endless():
        for number in range(100_000):
            pulled.append(number)
            yield from requests([number % 100])

    stream = OpenAIServer(server.url).answer(endless())
    next(stream)
    stream.close()
    reader = next((thread for thread in threading.enumerate() if thread.name == "requests"), None)
    if reader is not None:
        reader.join(TIMEOUT_S)
        assert not reader.is_alive()
    assert len(pulled) < 1000
