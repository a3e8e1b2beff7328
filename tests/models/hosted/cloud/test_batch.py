"""Moondream Cloud's batches: many requests in a file, half the price."""

from __future__ import annotations

import json

import pytest
from support.hosted.asking import ended, requests, right
from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset
from support.hosted.pictures import numbered

from moondream_beam.models.hosted.cloud.annotator import MoondreamCloud
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.hosted.journal import LocalStore
from moondream_beam.models.tasks import Answer, Box, Caption, Detect, Point, Query, Request, Spot


@pytest.fixture
def cloud(api, clock):
    return MoondreamCloud(batch=True, clock=clock)


def test_all_go_in_one_file_and_each_has_its_own_answer(api, cloud):
    assert ended(cloud.answer(requests(40))) == right(40)
    assert len(api.cloud.batches) == 1 and max(api.cloud.asked.values()) == 1


def test_every_task_is_answered_in_its_own_shape_for_half_the_price(api, clock):
    tasks = [Caption("short"), Query("Why?"), Detect("dog", 1), Point("dog")]
    cloud = MoondreamCloud(batch=True, prices=(2.0, 10.0), clock=clock)
    outcomes = list(cloud.answer([Request(task.name, numbered(5), task) for task in tasks]))
    assert {outcome.id: outcome.result for outcome in outcomes} == {
        "caption": Answer("stop", text="short | 5"),
        "query": Answer("stop", text="Why? | 5"),
        "detect": Answer("stop", objects=(Box(0.1, 0.2, 0.5, 0.6),)),
        "point": Answer("stop", points=(Spot(0.25, 0.75),) * 2),
    }
    assert {outcome.backend for outcome in outcomes} == {"cloud-batch/moondream3.1-9B-A2B"}
    assert sum(outcome.hosted.usd for outcome in outcomes) == pytest.approx(4 * 0.0022 / 2)


def test_a_bad_picture_fails_alone(api, cloud):
    api.cloud.poison = {3}
    outcomes = list(cloud.answer(requests(8)))
    assert ended(outcomes) == {**right(8), 3: "Rejected"}
    assert [o.result.message for o in outcomes if o.id == "r3"] == ["image_decode_failed: no image"]


@pytest.mark.parametrize("operation", ["mpu-create", "mpu-uploadpart", "mpu-complete", "batch", "download"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_was_refused_is_done_again(api, cloud, operation, status):
    api.faults.append(Fault(operation, answer(status, "{}"), times=3))
    assert ended(cloud.answer(requests(8))) == right(8)
    assert len(api.cloud.batches) == 1


@pytest.mark.parametrize("operation", ["mpu-create", "mpu-uploadpart", "batch", "download"])
@pytest.mark.parametrize("act", [reset, ends_early, garbled(lambda text: "<html>")])
def test_what_is_free_and_lost_is_done_again(api, cloud, operation, act):
    if operation == "download":
        act = act if act in (reset, ends_early) else lambda call, response: (200, "<html>", {})
    api.faults.append(Fault(operation, act, before=False, times=2))
    assert ended(cloud.answer(requests(8))) == right(8)
    assert len(api.cloud.batches) == 1


@pytest.mark.parametrize("act", [reset, ends_early, garbled(lambda text: "<html>"), changed(lambda body: {})])
def test_a_lost_answer_to_what_is_paid_for_is_never_sent_again_by_itself(api, cloud, act):
    api.faults.append(Fault("mpu-complete", act, before=False, times=1))
    assert set(ended(cloud.answer(requests(8))).values()) == {"LostAnswer"}
    assert len(api.cloud.batches) == 1


def test_a_batch_that_failed_is_sent_again_and_then_in_halves(api, cloud):
    failed = changed(lambda body: {**body, "status": "failed", "error": "no"})
    api.faults.append(Fault("batch", failed, before=False, times=6))
    assert ended(cloud.answer(requests(8))) == right(8)
    assert sorted(len(lines) for lines in api.cloud.batches.values()) == [4, 4, 8, 8, 8]


@pytest.mark.parametrize("name", ["7", "-1", "x", None])
def test_lines_that_nobody_sent_or_that_come_twice_are_never_taken_for_others(api, cloud, name):
    def change(call, response):
        status, body, headers = response
        lines = [json.loads(line) for line in body.decode().splitlines()]
        return status, "\n".join(json.dumps({**line, "id": name}) for line in lines).encode(), headers

    api.faults.append(Fault("download", change, before=False, times=1))
    assert ended(cloud.answer(requests(2))) == right(2)
    assert len(api.cloud.batches) == 3, "in halves"


def test_a_line_left_out_is_a_fault(api, cloud):
    api.faults.append(Fault("download", lambda call, response: (200, b"", {}), before=False, times=1))
    told = ended(cloud.answer(requests(8)))
    assert list(told.values()).count("NoAnswer") == 4


def test_an_address_that_has_ended_is_asked_for_again(api, cloud):
    api.faults.append(Fault("download", answer(403, "<Error>Request has expired</Error>"), times=2))
    assert ended(cloud.answer(requests(8))) == right(8)
    assert len(api.cloud.batches) == 1


def test_an_answer_may_hold_what_separates_lines_elsewhere(api, cloud):
    def change(call, response):
        status, body, headers = response
        lines = [{**json.loads(line), "result": {"answer": "a\u2028b\x85c"}} for line in body.splitlines()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
        return status, text.encode(), headers

    api.faults.append(Fault("download", change, before=False, times=2))
    assert ended(cloud.answer(requests(2))) == dict.fromkeys(range(2), "a\u2028b\x85c")


def test_answers_are_fetched_over_https_only(api, cloud):
    http = changed(lambda body: {**body, "outputs": [{"url": "http://127.0.0.1/x"}]} if "outputs" in body else body)
    api.faults.append(Fault("batch", http, before=False, times=2))
    assert ended(cloud.answer(requests(2))) == right(2)


def test_a_crash_while_a_batch_goes_on_costs_nothing(api, cloud, clock, tmp_path):
    api.cloud.polls_to_end = 10**9
    stream = cloud.with_store(LocalStore(str(tmp_path / "_paid"))).answer(requests(8))
    api.faults.append(Fault("batch", answer(401, "{}"), times=1))
    with pytest.raises(AccountError):
        next(stream)
    api.cloud.polls_to_end = 0
    assert ended(cloud.with_store(LocalStore(str(tmp_path / "_paid"))).answer(requests(8))) == right(8)
    assert len(api.cloud.batches) == 1


def test_a_batch_holds_pictures_not_addresses():
    with pytest.raises(ValueError, match="a batch holds pictures"):
        MoondreamCloud(batch=True, send_urls=True)
