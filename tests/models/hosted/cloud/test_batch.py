"""Moondream Cloud's Batch API: many requests in one file, at half the price."""

from __future__ import annotations

import json

import pytest
from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset
from support.hosted.pictures import numbered
from support.hosted.queries import expected, requests, results_of

from moondream_beam.models.hosted.cloud.annotator import MoondreamCloud
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.hosted.payment.journal import LocalStore
from moondream_beam.models.tasks import Answer, Box, Caption, Detect, Point, Query, Request, Spot


@pytest.fixture
def cloud(api, clock):
    return MoondreamCloud(batch=True, clock=clock)


def test_requests_share_one_batch_and_each_gets_its_own_answer(api, cloud):
    assert results_of(cloud.answer(requests(40))) == expected(40)
    assert len(api.cloud.batches) == 1 and max(api.cloud.asked.values()) == 1


def test_every_task_has_its_own_kind_of_answer_at_half_the_price(api, clock):
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


def test_only_the_bad_picture_fails(api, cloud):
    api.cloud.poison = {3}
    outcomes = list(cloud.answer(requests(8)))
    assert results_of(outcomes) == {**expected(8), 3: "Rejected"}
    (message,) = (o.result.message for o in outcomes if o.id == "r3")
    assert message.startswith("image_decode_failed: no image; ") and "picture" in message


@pytest.mark.parametrize("operation", ["mpu-create", "mpu-uploadpart", "mpu-complete", "batch", "download"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refused_call_is_retried(api, cloud, operation, status):
    api.faults.append(Fault(operation, answer(status, "{}"), times=3))
    assert results_of(cloud.answer(requests(8))) == expected(8)
    assert len(api.cloud.batches) == 1


@pytest.mark.parametrize("operation", ["mpu-create", "mpu-uploadpart", "batch", "download"])
@pytest.mark.parametrize("act", [reset, ends_early, garbled(lambda text: "<html>")])
def test_a_lost_answer_of_a_free_call_is_retried(api, cloud, operation, act):
    if operation == "download":
        act = act if act in (reset, ends_early) else lambda call, response: (200, "<html>", {})
    api.faults.append(Fault(operation, act, before=False, times=2))
    assert results_of(cloud.answer(requests(8))) == expected(8)
    assert len(api.cloud.batches) == 1


@pytest.mark.parametrize("act", [reset, ends_early, garbled(lambda text: "<html>"), changed(lambda body: {})])
def test_a_batch_with_a_lost_answer_is_not_sent_again(api, cloud, act):
    api.faults.append(Fault("mpu-complete", act, before=False, times=1))
    assert set(results_of(cloud.answer(requests(8))).values()) == {"LostAnswer"}
    assert len(api.cloud.batches) == 1


def test_a_failed_batch_is_sent_again_and_then_in_halves(api, cloud):
    failed = changed(lambda body: {**body, "status": "failed", "error": "no"})
    api.faults.append(Fault("batch", failed, before=False, times=6))
    assert results_of(cloud.answer(requests(8))) == expected(8)
    assert sorted(len(lines) for lines in api.cloud.batches.values()) == [4, 4, 8, 8, 8]


@pytest.mark.parametrize("name", ["7", "-1", "x", None])
def test_lines_with_an_invalid_or_repeated_id_are_a_mismatch(api, cloud, name):
    def change(call, response):
        status, body, headers = response
        lines = [json.loads(line) for line in body.decode().splitlines()]
        return status, "\n".join(json.dumps({**line, "id": name}) for line in lines).encode(), headers

    api.faults.append(Fault("download", change, before=False, times=1))
    assert results_of(cloud.answer(requests(2))) == expected(2)
    assert len(api.cloud.batches) == 3, "in halves"


def test_a_missing_line_is_a_fault(api, cloud):
    api.faults.append(Fault("download", lambda call, response: (200, b"", {}), before=False, times=1))
    results = results_of(cloud.answer(requests(8)))
    assert list(results.values()).count("NoAnswer") == 4


def test_an_expired_url_of_answers_is_polled_again(api, cloud):
    api.faults.append(Fault("download", answer(403, "<Error>Request has expired</Error>"), times=2))
    assert results_of(cloud.answer(requests(8))) == expected(8)
    assert len(api.cloud.batches) == 1


def test_an_answer_may_contain_unicode_line_separators(api, cloud):
    def change(call, response):
        status, body, headers = response
        lines = [{**json.loads(line), "result": {"answer": "a\u2028b\x85c"}} for line in body.splitlines()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
        return status, text.encode(), headers

    api.faults.append(Fault("download", change, before=False, times=2))
    assert results_of(cloud.answer(requests(2))) == dict.fromkeys(range(2), "a\u2028b\x85c")


def test_answers_are_fetched_over_https_only(api, cloud):
    http = changed(lambda body: {**body, "outputs": [{"url": "http://127.0.0.1/x"}]} if "outputs" in body else body)
    api.faults.append(Fault("batch", http, before=False, times=2))
    assert results_of(cloud.answer(requests(2))) == expected(2)


def test_a_stopped_run_resumes_its_batch(api, cloud, clock, tmp_path):
    api.cloud.polls_to_end = 10**9
    stream = cloud.with_store(LocalStore(str(tmp_path / "_paid"))).answer(requests(8))
    api.faults.append(Fault("batch", answer(401, "{}"), times=1))
    with pytest.raises(AccountError):
        next(stream)
    api.cloud.polls_to_end = 0
    assert results_of(cloud.with_store(LocalStore(str(tmp_path / "_paid"))).answer(requests(8))) == expected(8)
    assert len(api.cloud.batches) == 1


def test_a_batch_does_not_accept_send_urls():
    with pytest.raises(ValueError, match="a batch holds pictures"):
        MoondreamCloud(batch=True, send_urls=True)
