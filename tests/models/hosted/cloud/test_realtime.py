"""Moondream Cloud's realtime API: our calls and the official client's, against a server under its real name."""

from __future__ import annotations

import json

import moondream
import pytest
from moondream.types import Base64EncodedImage
from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset, reset_in_the_middle, silent
from support.hosted.pictures import numbered
from support.hosted.queries import expected, requests, results_of

from moondream_beam.models.hosted.cloud.annotator import MoondreamCloud
from moondream_beam.models.hosted.http import transport
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.hosted.http.images import data_uri, encode
from moondream_beam.models.tasks import Answer, Box, Caption, Detect, Point, Query, Request, Spot


@pytest.fixture
def cloud(api, clock):
    return MoondreamCloud(clock=clock)


def test_each_picture_gets_its_own_answer(api, cloud):
    assert results_of(cloud.answer(requests(40))) == expected(40)
    assert max(api.cloud.asked.values()) == 1


def test_every_task_has_its_own_kind_of_answer(api, cloud):
    tasks = [Caption("short"), Query("Why?"), Detect("dog"), Point("dog")]
    outcomes = {
        outcome.id: outcome.result
        for outcome in cloud.answer([Request(task.name, numbered(4), task) for task in tasks])
    }
    assert outcomes == {
        "caption": Answer("stop", text="short | 4"),
        "query": Answer("stop", text="Why? | 4"),
        "detect": Answer("stop", objects=(Box(0.1, 0.2, 0.5, 0.6),)),
        "point": Answer("stop", points=(Spot(0.25, 0.75),)),
    }


def test_billing_is_by_tokens(api, clock):
    (outcome,) = MoondreamCloud(prices=(2.0, 10.0), clock=clock).answer(requests(1))
    assert (outcome.tokens.input, outcome.tokens.output) == (1000, 20)
    assert outcome.hosted.units == 1020 and not outcome.hosted.estimated
    assert outcome.hosted.usd == pytest.approx(0.0022)
    assert (outcome.timings.encode_ms, outcome.timings.generate_ms) == (5.0, 7.0)


def test_unreported_tokens_are_estimated(api, cloud):
    api.cloud.reports_tokens = False
    (outcome,) = cloud.answer(requests(1))
    assert outcome.hosted.estimated and outcome.hosted.units == 1550


def test_the_official_client_sends_the_same_bodies(api, cloud):
    tasks = (Caption("long"), Query("Why?"), Detect("dog", 7), Point("dog", 7))
    list(cloud.answer([Request(task.name, numbered(5), task) for task in tasks]))
    ours = [json.dumps(body, sort_keys=True) for body in api.cloud.bodies]
    api.cloud.bodies.clear()

    picture = Base64EncodedImage(image_url=data_uri(encode(numbered(5))))
    client = moondream.vl(api_key=api.cloud.key, model=cloud.name)
    words = {"temperature": 0.2, "top_p": 1.0}
    assert client.caption(picture, "long", settings={**words, "max_tokens": 512}) == {"caption": "long | 5"}
    assert client.query(picture, "Why?", settings={**words, "max_tokens": 64}) == {"answer": "Why? | 5"}
    assert len(client.detect(picture, "dog", settings={"max_objects": 7})["objects"]) == 2
    assert len(client.point(picture, "dog", settings={"max_objects": 7})["points"]) == 2
    assert sorted(ours) == sorted(json.dumps(body, sort_keys=True) for body in api.cloud.bodies)


@pytest.mark.parametrize(
    "fault",
    [
        answer(429, {"error": {"message": "Rate limit exceeded", "type": "rate_limit_error"}}),
        answer(500, {"error": {"message": "x", "type": "server_error"}}),
        answer(502, "<html>"),
        answer(503, "{}"),
        answer(504, {"error": {"message": "x", "type": "timeout_error"}}),
        answer(200, {"error": "Queue is full", "status": "rejected"}),
    ],
)
def test_a_refused_call_is_retried(api, cloud, fault):
    api.faults.append(Fault("query", fault, times=3))
    assert results_of(cloud.answer(requests(6))) == expected(6)
    assert max(api.cloud.asked.values()) == 1


def test_retry_after_pauses_all_calls(api, cloud):
    # All of the first calls are refused: an answer to one of them could arrive before the refusal of another one.
    refusal = answer(429, {"error": {}}, Retry_After="20")
    api.faults.append(Fault("query", refusal, times=cloud.concurrency))
    assert results_of(cloud.answer(requests(30))) == expected(30)
    times = api.times("query")
    assert times[-1] - times[0] >= 20
    # Only the calls that were in flight when the API refused one.
    assert len([time for time in times if time < times[0] + 20]) <= cloud.concurrency


@pytest.mark.parametrize("fault", [reset, reset_in_the_middle, ends_early, garbled(lambda text: text[:9])])
def test_a_call_with_a_lost_answer_is_not_sent_again(api, cloud, fault):
    api.faults.append(Fault("query", fault, before=False, times=2))
    results = results_of(cloud.answer(requests(12)))
    assert sorted(results.values()).count("LostAnswer") == 2
    assert sum(api.cloud.asked.values()) == 12 and max(api.cloud.asked.values()) == 1


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_timeout_is_a_lost_answer(api, cloud, status):
    api.faults.append(Fault("query", answer(status, "<html>"), before=False, times=2))
    results = results_of(cloud.answer(requests(12)))
    assert sorted(results.values()).count("LostAnswer") == 2
    assert max(api.cloud.asked.values()) == 1


def test_an_answer_with_an_error_of_null_is_an_answer(api, cloud):
    api.faults.append(Fault("query", changed(lambda body: {**body, "error": None}), before=False, times=1))
    assert results_of(cloud.answer(requests(1))) == expected(1)


def test_a_call_that_times_out_is_a_lost_answer(api, cloud, monkeypatch):
    monkeypatch.setitem(transport.TIMEOUT_S, "submit", 2.0)
    api.faults.append(Fault("query", silent(60.0), before=False, times=1))
    assert list(results_of(cloud.answer(requests(3))).values()).count("LostAnswer") == 1
    assert sum(api.cloud.asked.values()) == 3


def test_only_the_bad_picture_fails(api, cloud):
    api.cloud.poison = {2}
    assert results_of(cloud.answer(requests(5))) == {**expected(5), 2: "Rejected"}


@pytest.mark.parametrize(
    "change, error",
    [
        (lambda body: {**body, "answer": None}, "EmptyAnswer"),
        (lambda body: {**body, "answer": "  "}, "EmptyAnswer"),
        (lambda body: {}, "MismatchedAnswer"),
    ],
)
def test_an_empty_answer_is_a_fault_and_billed(api, cloud, change, error):
    api.faults.append(Fault("query", changed(change), before=False, times=1))
    (outcome,) = cloud.answer(requests(1))
    assert outcome.result.error == error
    assert outcome.hosted.usd > 0 and sum(api.cloud.asked.values()) == 1


@pytest.mark.parametrize(
    "boxes", ["no", [{"x_min": 1}], [{"x_min": 0.9, "y_min": 0, "x_max": 0.1, "y_max": 1}], [None], [7]]
)
def test_invalid_boxes_are_a_fault(api, cloud, boxes):
    api.faults.append(Fault("detect", changed(lambda body: {**body, "objects": boxes}), before=False))
    (outcome,) = cloud.answer(requests([4], Detect("dog")))
    assert outcome.result.error == "MismatchedAnswer"


def test_boxes_are_clamped_and_limited_to_max_objects(api, cloud):
    box = {"x_min": -0.5, "y_min": 0.0, "x_max": 1.5, "y_max": 1}
    api.faults.append(Fault("detect", changed(lambda body: {**body, "objects": [box] * 9}), before=False))
    (outcome,) = cloud.answer(requests([4], Detect("dog", 2)))
    assert outcome.result.objects == (Box(0.0, 0.0, 1.0, 1.0),) * 2


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_account_is_one_line_without_the_key(api, cloud, status):
    said = {"error": {"message": f"no money for {api.cloud.key}", "type": "account"}}
    api.faults.append(Fault("query", answer(status, said), times=99))
    with pytest.raises(AccountError, match=f"{status}.*no money for") as refusal:
        list(cloud.answer(requests(20)))
    assert api.cloud.key not in str(refusal.value) and "\n" not in str(refusal.value)
    assert api.count("query") <= 8


def test_three_hundred_pictures_get_one_outcome_each_at_five_percent_of_every_fault(api, cloud):
    refusals = [answer(status, "{}") for status in (429, 500, 502, 503, 504)]
    kinds = [Fault("query", act) for act in (*refusals, reset)]
    kinds += [Fault("query", act, before=False) for act in (reset, reset_in_the_middle, ends_early)]
    kinds += [
        Fault("query", changed(change), before=False) for change in (lambda body: {}, lambda body: {"answer": ""})
    ]
    for seed, fault in enumerate(kinds):
        fault.share, fault.seed = 0.05, seed
        fault.__post_init__()
    api.faults += kinds
    results = results_of(cloud.answer(requests(300)))
    wrong = {number: text for number, text in results.items() if text != expected([number])[number]}
    assert (
        len(results) == 300
        and set(wrong.values()) == {"LostAnswer", "MismatchedAnswer", "EmptyAnswer"}
        and len(wrong) < 120
    )
    assert max(api.cloud.asked.values()) == 1 and all(fault.hits for fault in kinds)


def test_send_urls_sends_public_urls_and_the_bytes_of_other_pictures(api, clock):
    api.cloud.urls["https://example.org/a.jpg"] = 3
    named = Request("r3", numbered(9), Query(), uri="https://example.org/a.jpg")
    private = Request("r9", numbered(9), Query(), uri="http://10.0.0.1/a.jpg")
    assert results_of(MoondreamCloud(send_urls=True, clock=clock).answer([named, private])) == expected([3, 9])


def test_invalid_arguments_are_value_errors():
    for wrong in (
        {"prices": (1.0,)},
        {"prices": (-1.0, 1.0)},
        {"max_cost": 0},
        {"concurrency": 0},
        {"model": " "},
        {"batch_size": 0},
    ):
        with pytest.raises(ValueError, match="give|takes"):
            MoondreamCloud(**wrong)
