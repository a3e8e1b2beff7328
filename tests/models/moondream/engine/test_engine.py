"""Moondream gives each request one outcome, the same in any batch; a request that fails does not affect others."""

import io
import json
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.checkpoints.files import WEIGHTS_FILE
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine import engine
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.engine.slots import Slots
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.tasks import Answer, Box, Caption, Detect, Fault, Point, Query, Request, Sampling

WARM = Sampling(max_tokens=12, temperature=0.8)


def load(folder, **options):
    return Moondream(str(folder), device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def moondream(toy_folder):
    return load(toy_folder)


@pytest.fixture(scope="module")
def requests(toy_pictures):
    """Each task on each picture, at a temperature above 0."""
    tasks = (Caption(), Query("what color is the circle"), Query("dog"), Detect("circle", 3), Point("a dog", 4))
    return [
        Request(f"{number}-{task}", picture, task, WARM)
        for number, picture in enumerate(toy_pictures)
        for task in tasks
    ]


def answers(moondream, requests):
    """Results by request id. Asserts one outcome for each request."""
    outcomes = list(moondream.answer(requests))
    assert sorted(outcome.id for outcome in outcomes) == sorted(request.id for request in requests)
    return {outcome.id: outcome.result for outcome in outcomes}


# Answers of the reference.


def clamped(place):
    return [min(1.0, max(0.0, number)) for number in place.values()]


@pytest.mark.parametrize("batch_size", [64, 13])
def test_answers_match_the_reference(golden, batch_size):
    asked = [Request(str(run), golden.pictures[run.picture], run.task, run.sampling) for run in golden.runs]
    random.Random(batch_size).shuffle(asked)
    found = answers(load(golden.folder, batch_size=batch_size), asked)
    for run in golden.runs:
        answer = found[str(run)]
        assert answer.finish_reason == ("length" if run.is_cut else "stop"), run
        assert answer.text == run.wanted.get("text"), run
        assert answer.reasoning == run.thoughts.get("text"), run
        places = answer.objects if isinstance(run.task, Detect) else answer.points
        wanted = run.wanted.get("result")
        assert (places is None) == (wanted is None), run
        assert places is None or np.allclose(places, [clamped(place) for place in wanted], atol=1e-4), run
        assert places is None or len(places) == len(wanted), run


def test_one_request_alone_matches_the_reference(golden):
    moondream = load(golden.folder, batch_size=1)
    for run in golden.runs[::9]:
        request = Request("a", golden.pictures[run.picture], run.task, run.sampling)
        answer = answers(moondream, [request])["a"]
        assert answer.text == run.wanted.get("text"), run
        assert len(answer.objects or answer.points or ()) == len(run.wanted.get("result", [])), run


def test_boxes_are_clamped_to_the_picture(golden):
    """Some boxes of the reference extend beyond the picture."""
    runs = [run for run in golden.runs if isinstance(run.task, Detect)]
    raw = [number for run in runs for box in run.wanted["result"] for number in box.values()]
    assert min(raw) < 0 or max(raw) > 1
    asked = [Request(str(run), golden.pictures[run.picture], run.task, run.sampling) for run in runs]
    boxes = [box for answer in answers(load(golden.folder), asked).values() for box in answer.objects]
    assert all(0 <= box.x_min <= box.x_max <= 1 and 0 <= box.y_min <= box.y_max <= 1 for box in boxes)
    assert all(type(box) is Box for box in boxes)


# The same request gets the same answer.


def test_a_sampled_answer_is_the_same_alone_and_in_any_batch(toy_folder, requests):
    together = answers(load(toy_folder, batch_size=64), requests)
    alone = answers(load(toy_folder, batch_size=1), requests)
    shuffled = answers(load(toy_folder, batch_size=7), random.Random(0).sample(requests, len(requests)))
    assert together == alone == shuffled


def test_another_request_id_gives_another_sampled_text(moondream, requests):
    again = [replace(request, id=f"other {request.id}") for request in requests]
    first, second = answers(moondream, requests), answers(moondream, again)
    same = [request.task for request in requests if first[request.id] == second[f"other {request.id}"]]
    assert {type(task) for task in same} == {Detect, Point}


def test_at_temperature_zero_the_request_id_changes_nothing(moondream, requests):
    cold = [replace(request, sampling=Sampling(max_tokens=12, temperature=0)) for request in requests]
    again = [replace(request, id=f"other {request.id}") for request in cold]
    found, other = answers(moondream, cold), answers(moondream, again)
    assert all(found[request.id] == other[f"other {request.id}"] for request in requests)


def test_a_tiny_top_p_equals_temperature_zero(moondream, requests):
    def texts(sampling):
        return answers(moondream, [replace(request, sampling=sampling) for request in requests])

    cold = texts(Sampling(max_tokens=12, temperature=0))
    assert texts(Sampling(max_tokens=12, temperature=2.0, top_p=1e-6)) == cold
    assert texts(Sampling(max_tokens=12, temperature=2.0)) != cold


def encodings(monkeypatch):
    """A list that grows by the number of pictures of each call of ``Engine.encode``."""
    encoded, encode = [], Engine.encode
    monkeypatch.setattr(Engine, "encode", lambda self, crops: encoded.append(len(crops)) or encode(self, crops))
    return encoded


def test_consecutive_requests_of_one_picture_object_share_its_encoding(toy_folder, toy_pictures, monkeypatch):
    encoded = encodings(monkeypatch)
    first, second = toy_pictures[1], toy_pictures[2]
    pictures = [first, first, second, first.copy()]
    answers(load(toy_folder), [Request(str(n), picture, Caption(), WARM) for n, picture in enumerate(pictures)])
    assert sum(encoded) == 3


def test_more_requests_of_one_picture_than_slots_share_its_encoding(toy_folder, toy_pictures, monkeypatch):
    encoded = encodings(monkeypatch)
    asked = [Request(str(n), toy_pictures[n // 10], Caption(), WARM) for n in range(20)]
    answers(load(toy_folder, batch_size=3), asked)
    assert sum(encoded) == 2


# How answers end.


def test_a_text_of_max_tokens_has_finish_reason_length(moondream, toy_pictures):
    (outcome,) = moondream.answer([Request("a", toy_pictures[0], Caption(), Sampling(max_tokens=3, temperature=0))])
    assert outcome.result.finish_reason == "length"
    assert outcome.tokens.output == 3


def test_a_text_at_the_end_of_the_context_has_finish_reason_length(moondream, toy_pictures):
    question = Query("dog " * 30)
    (outcome,) = moondream.answer([Request("a", toy_pictures[0], question, Sampling(max_tokens=90, temperature=0))])
    assert outcome.result.finish_reason == "length"
    assert outcome.tokens.input + outcome.tokens.output == 96


def test_boxes_at_the_end_of_the_context_have_finish_reason_length(moondream, toy_pictures):
    (outcome,) = moondream.answer([Request("a", toy_pictures[0], Detect("dog", 1000))])
    assert outcome.result.finish_reason == "length"
    assert len(outcome.result.objects) == (96 - outcome.tokens.input) // 3


# Faults.


def truncated():
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:3000]))


BAD = {
    "a prompt too long for the context": (lambda picture: (picture, Query("dog " * 90)), "give a shorter prompt"),
    "a prompt that is not Unicode": (lambda picture: (picture, Query("\ud800")), "surrogates"),
    "a grey picture": (
        lambda picture: (picture.convert("L"), Caption()),
        "the picture is L: convert the picture to RGB first",
    ),
    "a picture with alpha": (lambda picture: (picture.convert("RGBA"), Caption()), "the picture is RGBA"),
    "a picture without pixels": (lambda picture: (Image.new("RGB", (0, 9)), Caption()), "no pixels"),
    "a picture cut short": (lambda picture: (truncated(), Caption()), "truncated"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_request_is_a_fault_and_does_not_affect_others(moondream, requests, bad):
    make, message = BAD[bad]
    picture, task = make(requests[7].picture)
    good = requests[5:10]
    found = answers(moondream, [*good[:2], Request("bad", picture, task, WARM), *good[2:]])
    fault = found.pop("bad")
    assert isinstance(fault, Fault) and message in fault.message and not fault.retryable
    assert found == answers(moondream, good)


class TooMuch(Image.Image):
    """A picture that raises MemoryError when its pixels are read."""

    def load(self):
        raise MemoryError


def test_a_memory_error_while_crops_are_made_is_a_retryable_fault(moondream):
    picture = TooMuch()
    picture._mode, picture._size = "RGB", (90, 90)
    found = answers(moondream, [Request("much", picture, Caption())])
    assert found == {"much": Fault("MemoryError", "MemoryError", retryable=True)}


def test_a_device_that_fails_while_it_resizes_is_no_fault_of_the_picture(toy_folder, toy_pictures, monkeypatch):
    def fail(*_):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    # In the place of the function that resizes on a GPU.
    monkeypatch.setattr(engine, "resize", fail)
    with pytest.raises(torch.AcceleratorError):
        list(load(toy_folder).answer([Request("a", toy_pictures[0], Caption())]))


def test_a_batch_of_only_bad_requests_gives_only_faults(moondream, toy_pictures):
    grey = toy_pictures[0].convert("L")
    found = answers(moondream, [Request(str(number), grey, Caption()) for number in range(3)])
    assert all(isinstance(fault, Fault) for fault in found.values())


def test_a_bad_prompt_and_a_good_one_on_the_same_picture(moondream, toy_pictures):
    asked = [Request("bad", toy_pictures[1], Query("dog " * 90)), Request("good", toy_pictures[1], Caption(), WARM)]
    found = answers(moondream, asked)
    assert (type(found["bad"]), type(found["good"])) == (Fault, Answer)


# Numbers and names on outcomes.


def test_the_backend_names_device_and_precision(toy_folder, toy_pictures):
    asked = [Request("good", toy_pictures[0], Caption(), WARM), Request("bad", toy_pictures[0].convert("L"), Caption())]
    for dtype in ("float32", "bfloat16"):
        outcomes = Moondream(str(toy_folder), device="cpu", dtype=dtype).answer(asked)
        assert {outcome.backend for outcome in outcomes} == {f"local/cpu/{dtype}"}


def test_tokens_are_counted(moondream, toy_pictures):
    asked = [Request(task.name, toy_pictures[0], task, WARM) for task in (Caption(), Detect("dog", 2), Point("dog", 2))]
    tokens = {outcome.id: outcome.tokens for outcome in moondream.answer(asked)}
    # 17 positions of the image prefix and 5 ids of the template.
    assert tokens["caption"].input == 17 + 5
    assert [tokens[name].output for name in ("caption", "detect", "point")] == [12, 2 * 3, 2 * 2]


def test_timings_sum_to_at_most_the_elapsed_time(moondream, requests):
    started = time.perf_counter()
    timings = [outcome.timings for outcome in moondream.answer(requests)]
    took_ms = 1000 * (time.perf_counter() - started)
    assert all(timing.encode_ms >= 0 and timing.generate_ms > 0 for timing in timings)
    assert sum(timing.encode_ms for timing in timings) > 0
    assert sum(timing.encode_ms + timing.generate_ms for timing in timings) <= took_ms


def test_requests_that_share_an_encoding_divide_its_time(toy_folder, toy_pictures, monkeypatch):
    encode = Engine.encode
    monkeypatch.setattr(Engine, "encode", lambda self, crops: time.sleep(0.5) or encode(self, crops))
    asked = [Request(str(n), toy_pictures[1], Caption(), WARM) for n in range(8)]
    spent = [outcome.timings.encode_ms for outcome in load(toy_folder, batch_size=4).answer(asked)]
    # Without sharing it would be 4,000 and more.
    assert 500 <= sum(spent) < 2000


def test_wait_ms_is_larger_for_a_request_that_waits_longer(toy_folder, toy_pictures, monkeypatch):
    """With one slot, a request waits for the steps of the one before. The first waits for none."""
    step = Slots.step
    monkeypatch.setattr(Slots, "step", lambda self: time.sleep(0.05) or step(self))
    asked = [Request(str(n), toy_pictures[0], Caption(), WARM) for n in range(12)]
    waits = {outcome.id: outcome.timings.wait_ms for outcome in load(toy_folder, batch_size=1).answer(asked)}
    assert waits["11"] > waits["0"] >= 0


# Names, loading, pickling.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "banana"}, "device banana: choose auto, cpu, cuda"),
        ({"dtype": "int8"}, "dtype int8: choose auto, float32"),
        ({"batch_size": 0}, "batch size 0: give 1 or more"),
    ],
)
def test_a_bad_option_is_refused_by_the_constructor(toy_folder, options, message):
    with pytest.raises(ValueError, match=message):
        Moondream(str(toy_folder), **options)


def test_an_unknown_model_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="no/such/folder: no such folder; give a folder with config.json and model.sa"):
        Moondream("no/such/folder")


def test_a_pickle_holds_no_weights_and_loads_them_again(toy_folder, requests):
    moondream = load(toy_folder)
    expected = answers(moondream, requests[:5])
    pickled = pickle.dumps(moondream)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert (again.name, again.revision) == (moondream.name, moondream.revision)
    assert answers(again, requests[:5]) == expected


def test_a_relative_folder_is_found_from_another_working_folder(toy_folder, requests, monkeypatch, tmp_path):
    monkeypatch.chdir(toy_folder.parent)
    moondream = load(toy_folder.name)
    monkeypatch.chdir(tmp_path)
    assert len(answers(pickle.loads(pickle.dumps(moondream)), requests[:2])) == 2


def test_weights_that_changed_after_planning_are_refused(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    pickled = pickle.dumps(load(folder))
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors["model.text.lm_head.bias"][7] += 1
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(RuntimeError, match="the weights changed after planning; run the same command again"):
        pickle.loads(pickled).load()


def test_weights_are_loaded_once_at_the_first_answer(toy_folder, requests, monkeypatch):
    loads = []
    load_weights = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self, *args: loads.append(self) or load_weights(self, *args))
    moondream = load(toy_folder)
    stream = moondream.answer(requests)
    assert not loads
    list(stream)
    list(moondream.answer(requests))
    assert len(loads) == 1


def test_threads_of_one_process_share_the_engine(toy_folder, requests):
    moondream, expected = load(toy_folder, batch_size=4), {}
    expected.update(answers(moondream, requests))
    fresh, found = load(toy_folder, batch_size=4), {}

    def work(part):
        found.update({outcome.id: outcome.result for outcome in fresh.answer(part)})

    threads = [threading.Thread(target=work, args=(requests[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_the_number_of_torch_threads_is_set_in_every_thread(toy_folder, requests):
    moondream, seen = load(toy_folder, threads=1), []

    def work():
        for _ in moondream.answer(requests[:3]):
            seen.append(torch.get_num_threads())

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [1] * 6


# Callers.


def test_two_open_streams_of_one_thread_are_both_answered(moondream, requests):
    """The caller that waits runs the network for both streams."""
    alone = answers(moondream, requests)
    first, second = moondream.answer(requests[:12]), moondream.answer(requests[12:])
    outcomes = [outcome for pair in zip(first, second, strict=False) for outcome in pair]
    outcomes += [*first, *second]
    assert {outcome.id: outcome.result for outcome in outcomes} == alone


def test_a_closed_stream_frees_its_slots(toy_folder, requests):
    moondream = load(toy_folder, batch_size=4)
    expected = answers(load(toy_folder), requests)
    for count in (1, 3):
        stream = moondream.answer(requests)
        for _ in range(count):
            next(stream)
        stream.close()
    assert answers(moondream, requests) == expected


def test_an_error_of_a_callers_iterator_reaches_that_caller_only(moondream, requests):
    def failing():
        yield from requests[:4]
        raise LookupError("no more")

    other = moondream.answer(requests[4:8])
    next(other)
    with pytest.raises(LookupError, match="no more"):
        list(moondream.answer(failing()))
    assert len(list(other)) == 3
    assert len(answers(moondream, requests)) == len(requests)


def test_requests_are_pulled_ahead_by_a_bounded_number(toy_folder, toy_pictures):
    pulled = []

    def endless():
        while True:
            pulled.append(None)
            yield Request(str(len(pulled)), toy_pictures[0], Caption(), WARM)

    stream = load(toy_folder, batch_size=2).answer(endless())
    for _ in range(10):
        next(stream)
    stream.close()
    # 10 answered, 2 in slots, 1 prefilled, 2 in the inbox, 1 just pulled, and a few outcomes in the outbox.
    assert len(pulled) <= 20


def test_an_error_of_the_network_ends_all_streams_and_later_ones_work(toy_folder, requests, monkeypatch):
    moondream = load(toy_folder)
    other = moondream.answer(requests)
    next(other)
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "_step", lambda self, slots: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(moondream.answer(requests))
    with pytest.raises(ZeroDivisionError):
        list(other)
    assert answers(moondream, requests) == answers(load(toy_folder), requests)


# Memory.


@pytest.fixture
def bounded(monkeypatch):
    """Make the allocation of a cache with more rows than this fail, as on a device with little memory."""

    def bound(rows):
        make = KVCache.empty.__func__

        def empty(cls, config, count, positions, like):
            if count > rows:
                raise torch.OutOfMemoryError(f"{count} rows are more than {rows}")
            return make(cls, config, count, positions, like)

        monkeypatch.setattr(KVCache, "empty", classmethod(empty))

    return bound


@pytest.mark.parametrize("rows", [2, 5, 19])
def test_out_of_memory_reduces_the_slots_and_keeps_all_answers(toy_folder, requests, bounded, rows, caplog):
    expected = answers(load(toy_folder), requests)
    bounded(rows)
    moondream = load(toy_folder)
    assert answers(moondream, requests) == expected
    assert "out of memory: " in caplog.text
    slots = moondream.load().max_slots
    assert slots + slots // 4 <= rows


def test_out_of_memory_during_a_step_keeps_all_answers(toy_folder, requests, monkeypatch):
    expected, steps = answers(load(toy_folder), requests), []
    step = Slots.step

    def sometimes(self):
        steps.append(len(self.active))
        if len(steps) in (3, 7, 20):
            step(self)
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.")
        return step(self)

    monkeypatch.setattr(Slots, "step", sometimes)
    assert answers(load(toy_folder, batch_size=16), requests) == expected
    assert max(steps[20:]) <= 2


def test_a_request_that_does_not_fit_alone_is_a_fault_and_others_are_answered(toy_folder, toy_pictures, monkeypatch):
    """Request 5 has a long answer, whose cache is larger than the memory."""
    make = KVCache.empty.__func__

    def empty(cls, config, count, positions, like):
        if positions > 60:
            raise torch.OutOfMemoryError("too wide")
        return make(cls, config, count, positions, like)

    monkeypatch.setattr(KVCache, "empty", classmethod(empty))
    monkeypatch.setattr(engine, "POSITIONS_STEP", 4)
    asked = [Request(str(n), toy_pictures[n % 3], Caption(), Sampling(70 if n == 5 else 8)) for n in range(9)]
    moondream = load(toy_folder)
    slots = moondream.load().max_slots
    found = answers(moondream, asked)
    assert [name for name, result in found.items() if isinstance(result, Fault)] == ["5"]
    assert found["5"].retryable and found["5"].error == "OutOfMemoryError"
    assert moondream.load().max_slots == slots


@pytest.mark.slow
def test_500_mixed_requests_are_answered_within_bounded_memory(toy_folder):
    """In a process with a limit on its address space, where the real allocator fails."""
    program = Path(__file__).with_name("bounded.py")
    done = subprocess.run([sys.executable, program, toy_folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcomes"] == found["answers"] == 500
    assert found["slots"] < found["slots before"]
