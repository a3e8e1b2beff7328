"""The fallback from the engine to a paid API: which of them answers, and what is paid for."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
from support.data.echo import Echo
from support.hosted.faults import Fault as Accident
from support.hosted.faults import answer
from support.hosted.pictures import numbered
from support.hosted.queries import requests

from moondream_beam.models.hosted import fallback as module
from moondream_beam.models.hosted.fal.annotator import ENDPOINT, Fal
from moondream_beam.models.hosted.fallback import Fallback
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.tasks import Answer, Detect, Fault, Query, Request


@dataclass(frozen=True)
class LocalEcho(Echo):
    """Echo as an engine, which can be on the CPU or fail to load."""

    on_cpu: bool = False
    breaks_on_load: bool = False

    def uses_cpu_fallback(self):
        return self.on_cpu

    def load(self):
        if self.breaks_on_load:
            raise RuntimeError("no weights here")


@pytest.fixture
def fal(api, clock):
    return Fal(batch_size=4, clock=clock)


def by_id(outcomes):
    """Return the outcomes by request id. Each request has one outcome."""
    found = {outcome.id: outcome for outcome in outcomes}
    assert len(found) == len(outcomes)
    return found


def by_fal(outcomes):
    return sorted(int(outcome.id[1:]) for outcome in outcomes if outcome.backend.startswith("fal/"))


def test_nothing_is_paid_for_if_the_engine_answers(api, fal):
    outcomes = list(Fallback(LocalEcho(), fal).answer(requests(9)))
    assert len(by_id(outcomes)) == 9 and by_fal(outcomes) == [] and not api.calls
    assert {(outcome.model, outcome.revision, outcome.hosted) for outcome in outcomes} == {("", "", None)}


def test_the_api_answers_without_an_accelerator_and_a_warning_says_so(api, fal, caplog):
    outcomes = list(Fallback(LocalEcho(on_cpu=True), fal).answer(requests(9)))
    assert by_fal(outcomes) == list(range(9))
    assert {(outcome.model, outcome.revision) for outcome in outcomes} == {("vikhyatk/moondream2", ENDPOINT)}
    assert "there is no accelerator: fal answers instead of echo, and is paid for" in caplog.text


def test_the_api_answers_if_the_engine_can_not_load(api, fal, caplog):
    fallback = Fallback(LocalEcho(breaks_on_load=True), fal)
    for _ in range(2):
        assert by_fal(list(fallback.answer(requests(3)))) == [0, 1, 2]
    assert caplog.text.count("can't load: no weights here") == 1


def test_faults_of_the_engine_are_retried_with_the_api(api, fal):
    asked = [*requests(40), Request("r99", numbered(99), Query("hard"))]
    outcomes = list(Fallback(LocalEcho(faults_on=("hard",)), fal).answer(asked))
    assert len(by_id(outcomes)) == 41 and by_fal(outcomes) == [99]
    assert by_id(outcomes)["r99"].result.text == "hard | 99"
    assert by_id(outcomes)["r99"].model == "vikhyatk/moondream2"


def test_a_fault_of_both_has_both_messages(api, fal):
    api.fal.poison = {3}
    outcomes = by_id(list(Fallback(LocalEcho(faults_on=("Describe this image.",)), fal).answer(requests(5))))
    fault = outcomes["r3"].result
    assert (fault.error, fault.retryable) == ("Tired", True)
    assert fault.message.startswith("echo is tired; fal: image_load_error: Failed to load the image.; ")
    assert [isinstance(outcome.result, Answer) for outcome in outcomes.values()].count(True) == 4


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_the_api_answers_the_rest_after_the_engine_breaks(api, fal, caplog, in_a_thread):
    asked = [*requests(10), Request("r50", numbered(50), Query("deadly")), *requests(range(60, 90))]
    fallback = Fallback(LocalEcho(dies_on=("deadly",), in_a_thread=in_a_thread), fal)
    outcomes = list(fallback.answer(asked))
    assert len(by_id(outcomes)) == 41
    assert {50, *range(61, 90)} <= set(by_fal(outcomes)) and len(by_fal(outcomes)) < 41
    assert "the engine broke: echo died" in caplog.text
    assert by_fal(list(fallback.answer(requests(2)))) == [0, 1], "the engine stays disabled"


def test_an_error_of_the_request_stream_is_raised(api, fal):
    def asked():
        yield from requests(3)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(Fallback(LocalEcho(), fal).answer(asked()))
    assert not api.calls


@pytest.mark.parametrize("out", [{"on_cpu": True}, {"breaks_on_load": True}])
def test_the_engine_keeps_the_tasks_that_the_api_does_not_support(api, fal, out):
    asked = [*requests(20), *requests(range(20, 60), Detect("dog"))]
    outcomes = list(Fallback(LocalEcho(**out), fal).answer(asked))
    assert len(by_id(outcomes)) == 60 and by_fal(outcomes) == list(range(20))
    kinds = {type(by_id(outcomes)[f"r{number}"].result) for number in range(20, 60)}
    assert kinds == ({Answer} if "on_cpu" in out else {Fault})


def test_a_fault_of_a_task_that_the_api_does_not_support_stays(api, fal):
    outcomes = list(Fallback(LocalEcho(faults_on=("dog",)), fal).answer(requests(3, Detect("dog"))))
    assert {outcome.result.error for outcome in outcomes} == {"Tired"} and not api.calls


def test_an_api_that_is_down_loses_no_request(api, fal):
    api.faults.append(Accident("submit", answer(503, {"detail": "down"}), times=10**9))
    outcomes = list(
        Fallback(LocalEcho(faults_on=("hard",)), fal).answer([*requests(9), *requests([50], Query("hard"))])
    )
    assert len(by_id(outcomes)) == 10
    assert "echo is tired; fal: fal answered 503: down" in by_id(outcomes)["r50"].result.message


def test_a_refused_account_is_raised_and_does_not_disable_the_engine(api, fal):
    api.faults.append(Accident("submit", answer(401, {"detail": "bad key"}), times=10**9))
    with pytest.raises(AccountError, match="401"):
        list(Fallback(LocalEcho(faults_on=("Describe this image.",)), fal).answer(requests(40)))
    assert api.count("submit") == 1


def test_unanswered_pictures_above_the_pixel_limit_are_kept_small(api, fal, monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 10_000)
    large = [Request(f"r{number}", numbered(number, (1600, 1600)), Query("hard")) for number in range(4)]
    feed = module._RequestFeed(large)
    assert [next(feed).picture.size for _ in range(4)] == [(1600, 1600)] * 4, "the engine gets them at full size"
    assert [feed.pop(f"r{number}").picture.size for number in range(4)] == [(1536, 1536)] * 4
    assert feed.pop("r0") is None and feed._pixels.used == 0
    outcomes = list(Fallback(LocalEcho(faults_on=("hard",)), fal).answer(large))
    assert {outcome.result.text for outcome in outcomes} == {f"hard | {number}" for number in range(4)}


def test_the_fallback_has_the_engines_name_and_can_be_pickled(api, fal):
    fallback = Fallback(Moondream("tiny"), fal)
    arrived = pickle.loads(pickle.dumps(fallback))
    assert (arrived.name, arrived.revision) == ("tiny", Moondream("tiny").revision)
    assert api.fal.key not in repr(pickle.dumps(fallback))


def test_the_cpu_is_a_fallback_only_if_no_device_was_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert Moondream("tiny").uses_cpu_fallback() and not Moondream("tiny", device="cpu").uses_cpu_fallback()


class LocalReasoner(LocalEcho):
    supports_reasoning = True


def test_a_query_with_reasoning_stays_with_the_engine(api, fal):
    """The API is not asked for reasonings, not even where the engine runs on the CPU."""
    annotator = Fallback(LocalReasoner(on_cpu=True), fal)
    assert annotator.supports_reasoning and not Fallback(LocalEcho(), fal).supports_reasoning
    asked = [*requests(4), *requests(range(4, 8), Query("Why?", reasoning=True))]
    outcomes = by_id(list(annotator.answer(asked)))
    assert len(outcomes) == 8 and by_fal(outcomes.values()) == [0, 1, 2, 3]
    assert all(isinstance(outcome.result, Answer) for outcome in outcomes.values())
