"""Moondream answers every request once, the same in any company; what can't be answered is a fault of its own."""

import io
import pickle
import random
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moondream_beam.models.moondream import annotator
from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.moondream.engine import Engine
from moondream_beam.models.moondream.files import WEIGHTS_FILE
from moondream_beam.models.moondream.weights import Checkpoint
from moondream_beam.models.tasks import Answer, Box, Caption, Detect, Fault, Point, Query, Request, Sampling

WARM = Sampling(max_tokens=12, temperature=0.8)


def load(folder, **options):
    return Moondream(str(folder), device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def moondream(toy_folder):
    return load(toy_folder)


@pytest.fixture(scope="module")
def requests(toy_pictures):
    """Each task on each picture, drawn warm."""
    tasks = (Caption(), Query("what color is the circle"), Query("dog"), Detect("circle", 3), Point("a dog", 4))
    return [
        Request(f"{number}-{task}", picture, task, WARM)
        for number, picture in enumerate(toy_pictures)
        for task in tasks
    ]


def answers(moondream, requests):
    """Results by request id; each must come exactly once."""
    outcomes = list(moondream.answer(requests))
    assert sorted(outcome.id for outcome in outcomes) == sorted(request.id for request in requests)
    return {outcome.id: outcome.result for outcome in outcomes}


# What the reference answers.


def clamped(place):
    return [min(1.0, max(0.0, number)) for number in place.values()]


@pytest.mark.parametrize("batch_size", [64, 13])
def test_answers_are_those_of_the_reference(golden, batch_size):
    asked = [Request(str(run), golden.pictures[run.picture], run.task, run.sampling) for run in golden.runs]
    random.Random(batch_size).shuffle(asked)
    found = answers(load(golden.folder, batch_size=batch_size), asked)
    for run in golden.runs:
        answer = found[str(run)]
        assert answer.finish_reason == run.finish_reason, run
        assert answer.text == run.wanted.get("text"), run
        places = answer.objects if isinstance(run.task, Detect) else answer.points
        wanted = run.wanted.get("result")
        assert (places is None) == (wanted is None), run
        assert places is None or np.allclose(places, [clamped(place) for place in wanted], atol=1e-4), run
        assert places is None or len(places) == len(wanted), run


def test_one_request_alone_is_answered_as_in_the_reference(golden):
    moondream = load(golden.folder, batch_size=1)
    for run in golden.runs[::9]:
        request = Request("a", golden.pictures[run.picture], run.task, run.sampling)
        answer = answers(moondream, [request])["a"]
        assert answer.text == run.wanted.get("text"), run
        assert len(answer.objects or answer.points or ()) == len(run.wanted.get("result", [])), run


def test_boxes_are_clamped_to_the_picture(golden):
    """The reference lets some hang over the edge."""
    runs = [run for run in golden.runs if isinstance(run.task, Detect)]
    raw = [number for run in runs for box in run.wanted["result"] for number in box.values()]
    assert min(raw) < 0 or max(raw) > 1
    asked = [Request(str(run), golden.pictures[run.picture], run.task, run.sampling) for run in runs]
    boxes = [box for answer in answers(load(golden.folder), asked).values() for box in answer.objects]
    assert all(0 <= box.x_min <= box.x_max <= 1 and 0 <= box.y_min <= box.y_max <= 1 for box in boxes)
    assert all(type(box) is Box for box in boxes)


# The same request, the same answer.


def test_a_warm_request_gets_the_same_text_alone_as_in_any_batch(toy_folder, requests):
    together = answers(load(toy_folder, batch_size=64), requests)
    alone = answers(load(toy_folder, batch_size=1), requests)
    shuffled = answers(load(toy_folder, batch_size=7), random.Random(0).sample(requests, len(requests)))
    assert together == alone == shuffled


def test_another_id_draws_another_text(moondream, requests):
    again = [replace(request, id=f"other {request.id}") for request in requests]
    first, second = answers(moondream, requests), answers(moondream, again)
    same = [request.task for request in requests if first[request.id] == second[f"other {request.id}"]]
    assert {type(task) for task in same} == {Detect, Point}


def test_temperature_zero_does_not_look_at_the_id(moondream, requests):
    cold = [replace(request, sampling=Sampling(max_tokens=12, temperature=0)) for request in requests]
    again = [replace(request, id=f"other {request.id}") for request in cold]
    assert list(answers(moondream, cold).values()) == list(answers(moondream, again).values())


def test_a_tiny_top_p_takes_the_likeliest(moondream, requests):
    def texts(sampling):
        return list(answers(moondream, [replace(request, sampling=sampling) for request in requests]).values())

    cold = texts(Sampling(max_tokens=12, temperature=0))
    assert texts(Sampling(max_tokens=12, temperature=2.0, top_p=1e-6)) == cold
    assert texts(Sampling(max_tokens=12, temperature=2.0)) != cold


def test_requests_of_one_picture_object_share_its_encoding(toy_folder, toy_pictures, monkeypatch):
    moondream, encoded = load(toy_folder), []
    encode = Engine.encode
    monkeypatch.setattr(Engine, "encode", lambda self, crops: encoded.append(len(crops)) or encode(self, crops))
    copy = toy_pictures[1].copy()
    pictures = [toy_pictures[1], toy_pictures[2], toy_pictures[1], copy]
    asked = [Request(str(number), picture, Caption(), WARM) for number, picture in enumerate(pictures)]
    answers(moondream, asked)
    assert encoded == [3]


# How answers end.


def test_a_text_that_reaches_its_budget_says_length(moondream, toy_pictures):
    (outcome,) = moondream.answer([Request("a", toy_pictures[0], Caption(), Sampling(max_tokens=3, temperature=0))])
    assert outcome.result.finish_reason == "length"
    assert outcome.tokens.output == 3


def test_an_answer_that_reaches_the_end_of_the_context_says_length(moondream, toy_pictures):
    question = Query("dog " * 30)
    (outcome,) = moondream.answer([Request("a", toy_pictures[0], question, Sampling(max_tokens=90, temperature=0))])
    assert outcome.result.finish_reason == "length"
    # 96 positions, one of them to idle on.
    assert outcome.tokens.input + outcome.tokens.output == 95


def test_boxes_end_where_the_context_ends(moondream, toy_pictures):
    (outcome,) = moondream.answer([Request("a", toy_pictures[0], Detect("dog", 1000))])
    assert outcome.result.finish_reason == "length"
    assert 0 < outcome.tokens.input + outcome.tokens.output <= 95
    assert len(outcome.result.objects) == (95 - outcome.tokens.input) // 3


# Faults.


def truncated():
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:3000]))


BAD = {
    "a prompt too long for the context": (lambda picture: (picture, Query("dog " * 90)), "ask a shorter one"),
    "a prompt that is not Unicode": (lambda picture: (picture, Query("\ud800")), "surrogates"),
    "a grey picture": (lambda picture: (picture.convert("L"), Caption()), "the picture is L; decode it to RGB first"),
    "a picture with alpha": (lambda picture: (picture.convert("RGBA"), Caption()), "the picture is RGBA"),
    "a picture without pixels": (lambda picture: (Image.new("RGB", (0, 9)), Caption()), "no pixels"),
    "a picture cut short": (lambda picture: (truncated(), Caption()), "truncated"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_request_is_a_fault_that_its_neighbours_do_not_notice(moondream, requests, bad):
    make, message = BAD[bad]
    picture, task = make(requests[7].picture)
    good = requests[5:10]
    found = answers(moondream, [*good[:2], Request("bad", picture, task, WARM), *good[2:]])
    fault = found.pop("bad")
    assert isinstance(fault, Fault) and message in fault.message and not fault.retryable
    assert found == answers(moondream, good)


def test_a_batch_of_bad_requests_only_is_all_faults(moondream, toy_pictures):
    grey = toy_pictures[0].convert("L")
    found = answers(moondream, [Request(str(number), grey, Caption()) for number in range(3)])
    assert all(isinstance(fault, Fault) for fault in found.values())


def test_a_bad_prompt_and_a_good_one_on_the_same_picture(moondream, toy_pictures):
    asked = [Request("bad", toy_pictures[1], Query("dog " * 90)), Request("good", toy_pictures[1], Caption(), WARM)]
    found = answers(moondream, asked)
    assert (type(found["bad"]), type(found["good"])) == (Fault, Answer)


# What it tells.


def test_the_backend_names_device_and_precision(toy_folder, toy_pictures):
    asked = [Request("good", toy_pictures[0], Caption(), WARM), Request("bad", toy_pictures[0].convert("L"), Caption())]
    for dtype in ("float32", "bfloat16"):
        outcomes = Moondream(str(toy_folder), device="cpu", dtype=dtype).answer(asked)
        assert {outcome.backend for outcome in outcomes} == {f"local/cpu/{dtype}"}


def test_tokens_are_counted(moondream, toy_pictures):
    asked = [Request(task.name, toy_pictures[0], task, WARM) for task in (Caption(), Detect("dog", 2), Point("dog", 2))]
    tokens = {outcome.id: outcome.tokens for outcome in moondream.answer(asked)}
    # 17 of the picture; the caption's template has 5, those of the others 4 around two or one.
    assert tokens["caption"].input == 17 + 5
    assert [tokens[name].output for name in ("caption", "detect", "point")] == [12, 2 * 3, 2 * 2]


def test_requests_of_a_batch_share_its_time(moondream, requests):
    timings = [outcome.timings for outcome in moondream.answer(requests)]
    assert len({(timing.encode_ms, timing.generate_ms) for timing in timings}) == 1
    assert timings[0].encode_ms > 0 and timings[0].generate_ms > 0


# Names, loading, pickling.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "banana"}, "device banana: choose auto, cpu, cuda"),
        ({"dtype": "int8"}, "dtype int8: choose auto, float32"),
        ({"batch_size": 0}, "batch size 0: give 1 or more"),
    ],
)
def test_an_unknown_option_is_refused_at_once(toy_folder, options, message):
    with pytest.raises(ValueError, match=message):
        Moondream(str(toy_folder), **options)


def test_an_unknown_model_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="no/such/folder: no such folder; give one with config.json and model.safeten"):
        Moondream("no/such/folder")


def test_it_pickles_unloaded_and_small_and_loads_again(toy_folder, requests):
    moondream = load(toy_folder)
    expected = answers(moondream, requests[:5])
    pickled = pickle.dumps(moondream)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert (again.name, again.revision) == (moondream.name, moondream.revision)
    assert answers(again, requests[:5]) == expected


def test_a_folder_given_relatively_is_found_from_elsewhere(toy_folder, requests, monkeypatch, tmp_path):
    monkeypatch.chdir(toy_folder.parent)
    moondream = load(toy_folder.name)
    monkeypatch.chdir(tmp_path)
    assert len(answers(pickle.loads(pickle.dumps(moondream)), requests[:2])) == 2


def test_weights_changed_since_the_job_was_planned_are_refused(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder, tmp_path / "copy")
    pickled = pickle.dumps(load(folder))
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors["model.text.lm_head.bias"][7] += 1
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(RuntimeError, match="not those that the job was planned with"):
        pickle.loads(pickled).load()


def test_it_loads_once_and_only_when_asked(toy_folder, requests, monkeypatch):
    loads = []
    load_weights = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self, *args: loads.append(self) or load_weights(self, *args))
    moondream = load(toy_folder)
    stream = moondream.answer(requests)
    assert not loads
    list(stream)
    list(moondream.answer(requests))
    assert len(loads) == 1


def test_a_batch_holds_no_more_pictures_than_fit_the_bound_on_pixels(toy_folder, monkeypatch):
    held = []
    answer_batch = Engine.answer_batch
    monkeypatch.setattr(
        Engine, "answer_batch", lambda self, batch: held.append(len(batch)) or answer_batch(self, batch)
    )
    monkeypatch.setattr(annotator, "PIXELS_AT_ONCE", 2 * 64 * 64)
    large, small = Image.new("RGB", (64, 64)), Image.new("RGB", (8, 8))
    pictures = [small, large, large, large, small, large, large]
    requests = [Request(str(index), picture, Query("?"), Sampling(2, 0)) for index, picture in enumerate(pictures)]
    # One picture that several requests share is held once.
    assert len(answers(load(toy_folder, batch_size=5), requests)) == len(pictures)
    assert held == [5, 2]
    held.clear()
    requests = [Request(str(index), large.copy(), Query("?"), Sampling(2, 0)) for index in range(5)]
    assert len(answers(load(toy_folder, batch_size=5), requests)) == 5
    assert held == [2, 2, 1]


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


def test_the_number_of_threads_is_kept(toy_folder):
    before = torch.get_num_threads()
    try:
        load(toy_folder, threads=before + 1).load()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_batch_of_our_choice_fits_its_memory(toy, monkeypatch):
    assert toy.default_batch_size() == 32
    # 2 (keys and values) x 2 layers x 2 heads x 8 channels x 96 positions x 4 bytes.
    row = 2 * 2 * 2 * 8 * 96 * 4
    monkeypatch.setattr("moondream_beam.models.moondream.engine.CACHE_BYTES", 5 * row + 1)
    assert toy.default_batch_size() == 5
    monkeypatch.setattr("moondream_beam.models.moondream.engine.CACHE_BYTES", 1)
    assert toy.default_batch_size() == 1
