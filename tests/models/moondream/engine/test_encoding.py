"""Pictures that are encoded while the answers before them are decoded: the answers are those of the usual order."""

from __future__ import annotations

import random
import time
from itertools import accumulate

import pytest
import torch

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.engine import encoding
from moondream_beam.models.moondream.engine.encoding import Batches, EncodedAtOnce
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.slots import Slots
from moondream_beam.models.tasks import Caption, Detect, Fault, Point, Query, Request, Sampling

WARM = Sampling(max_tokens=12, temperature=0.8)


class Late(EncodedAtOnce):
    """Work that is done at once, and that says so when it is asked for the third time, as a GPU would later."""

    def __init__(self, *work):
        super().__init__(*work)
        self._asked = 0

    def is_done(self):
        self._asked += 1
        return self._asked > 2


@pytest.fixture(autouse=True)
def ahead(monkeypatch):
    """Encode ahead on a CPU too."""
    make = Batches.__init__

    def make_ahead(self, *arguments):
        make(self, *arguments)
        self.ahead = True

    monkeypatch.setattr(Batches, "__init__", make_ahead)
    monkeypatch.setattr(encoding, "EncodedAtOnce", Late)


def load(folder, **options):
    return Moondream(str(folder), device="cpu", dtype="float32", **options)


def answers(moondream, requests):
    outcomes = list(moondream.answer(requests))
    assert sorted(outcome.id for outcome in outcomes) == sorted(request.id for request in requests)
    return {outcome.id: outcome.result for outcome in outcomes}


@pytest.fixture(scope="module")
def requests(toy_pictures):
    tasks = (Caption(), Query("what color is the circle"), Query("dog"), Detect("circle", 3), Point("a dog", 4))
    return [Request(f"{n}-{task}", picture, task, WARM) for n, picture in enumerate(toy_pictures) for task in tasks]


@pytest.fixture(scope="module")
def expected(toy_folder, requests):
    """Answers of an engine that encodes nothing ahead: there is room for all requests at once."""
    return answers(load(toy_folder, batch_size=len(requests)), requests)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_are_those_of_the_usual_order(toy_folder, requests, expected, batch_size):
    assert answers(load(toy_folder, batch_size=batch_size), requests) == expected


def test_texts_match_the_reference(golden):
    asked = [Request(str(run), golden.pictures[run.picture], run.task, run.sampling) for run in golden.runs]
    random.Random(0).shuffle(asked)
    found = answers(load(golden.folder, batch_size=13), asked)
    assert {name: answer.text for name, answer in found.items()} == {
        str(run): run.wanted.get("text") for run in golden.runs
    }


def test_the_next_pictures_are_encoded_while_answers_are_decoded(toy_folder, toy_pictures, monkeypatch):
    events = []
    encode, step = Engine.encode, Slots.step

    def noted_step(self):
        ended = step(self)
        events.extend(["ended"] * len(ended))
        return ended

    monkeypatch.setattr(Engine, "encode", lambda self, crops: events.append("encode") or encode(self, crops))
    monkeypatch.setattr(Slots, "step", noted_step)
    asked = [Request(str(n), picture.copy(), Caption(), WARM) for n, picture in enumerate(toy_pictures * 4)]
    found = answers(load(toy_folder, batch_size=2), asked)
    assert len(found) == len(asked) and not any(isinstance(answer, Fault) for answer in found.values())
    # Two pictures fill the two slots. Of all later ones, at least one is encoded before a slot is free.
    assert max(accumulate(1 if event == "encode" else -1 for event in events)) > 2


def test_a_closed_stream_frees_the_pictures_that_were_encoded_ahead(toy_folder, requests, expected):
    moondream = load(toy_folder, batch_size=4)
    for count in (1, 3):
        stream = moondream.answer(requests)
        for _ in range(count):
            next(stream)
        stream.close()
    assert answers(moondream, requests) == expected


@pytest.mark.parametrize("failing", [2, 3, 5])
def test_out_of_memory_while_encoding_ahead_keeps_all_answers(toy_folder, requests, expected, monkeypatch, failing):
    calls, encode = [], Engine.encode

    def sometimes(self, crops):
        calls.append(None)
        if len(calls) == failing:
            raise torch.OutOfMemoryError("no room for pictures")
        return encode(self, crops)

    monkeypatch.setattr(Engine, "encode", sometimes)
    assert answers(load(toy_folder, batch_size=3), requests) == expected
    assert len(calls) > failing


def test_an_error_while_encoding_ahead_ends_all_streams_and_later_ones_work(
    toy_folder, requests, expected, monkeypatch
):
    moondream = load(toy_folder, batch_size=4)
    other = moondream.answer(requests)
    next(other)
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "encode", lambda self, crops: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(moondream.answer(requests))
    with pytest.raises(ZeroDivisionError):
        list(other)
    assert answers(moondream, requests) == expected


def test_the_wait_for_a_slot_is_no_time_of_the_encoder(toy_folder, toy_pictures, monkeypatch):
    step = Slots.step
    monkeypatch.setattr(Slots, "step", lambda self: time.sleep(0.02) or step(self))
    asked = [Request(str(n), picture.copy(), Caption(), WARM) for n, picture in enumerate(toy_pictures)]
    started = time.perf_counter()
    timings = [outcome.timings for outcome in load(toy_folder, batch_size=1).answer(asked)]
    took_ms = 1000 * (time.perf_counter() - started)
    assert sum(timing.encode_ms + timing.generate_ms for timing in timings) <= took_ms
    assert all(timing.wait_ms + timing.encode_ms + timing.generate_ms <= took_ms for timing in timings)
    assert max(timing.wait_ms for timing in timings) > 20 * 10
