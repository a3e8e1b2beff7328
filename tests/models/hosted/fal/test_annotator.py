"""Moondream at fal: the official client against a server that answers for its real names."""

from __future__ import annotations

import io
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from time import time

import pytest
from PIL import Image
from support.hosted.faults import Fault, answer
from support.hosted.pictures import numbered
from support.hosted.queries import expected, requests, results_of

from moondream_beam.models.hosted.dispatch.rate_limiter import FAILURES_TO_OPEN
from moondream_beam.models.hosted.fal import annotator as module
from moondream_beam.models.hosted.fal.annotator import CAPTION_PROMPTS, ENDPOINT, Fal
from moondream_beam.models.tasks import Caption, Detect, Query, Request, Sampling


@pytest.fixture
def fal(api, clock):
    return Fal(clock=clock)


def test_each_picture_gets_its_own_answer_and_batches_are_filled(api, fal):
    assert results_of(fal.answer(requests(40))) == expected(40)
    assert sorted(len(job.pictures) for job in api.fal.jobs.values()) == [8, 16, 16]


def test_a_job_has_every_argument_of_the_endpoint(api, clock):
    sampling = Sampling(max_tokens=7, temperature=0, top_p=0.5, repetition_penalty=1.25)
    fal = Fal("fal-ai/moondream2-docci", clock=clock)
    list(fal.answer([Request("r3", numbered(3), Query("Why?"), sampling)]))
    ((_, job),) = api.fal.jobs.items()
    (given,) = job.arguments.pop("inputs")
    assert given.pop("image_url").startswith("data:image/jpeg;base64,") and given == {"prompt": "Why?"}
    assert job.arguments == {
        "model_id": "fal-ai/moondream2-docci",
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.5,
        "repetition_penalty": 1.25,
    }


def test_an_outcome_has_backend_billing_and_timings(api, clock):
    outcomes = list(Fal(price=0.02, clock=clock).answer(requests(4)))
    assert {outcome.backend for outcome in outcomes} == {"fal/vikhyatk/moondream2"}
    for outcome in outcomes:
        (job,) = api.fal.jobs
        assert outcome.hosted[:4] == (job, 0.25, 0.005, False)
        assert (
            f'"filename": "{outcome.id[1:]}.jpg"' in outcome.hosted.response
            and '"inference": 0.2' in outcome.hosted.response
        )
        assert (outcome.timings.encode_ms, outcome.timings.generate_ms) == pytest.approx((10.0, 50.0))


def test_billing_without_a_price_has_units_and_no_dollars(api, fal):
    (outcome,) = fal.answer(requests(1))
    assert (outcome.hosted.units, outcome.hosted.usd) == (0.25, None)


def test_unreported_units_are_estimated(api, clock):
    api.fal.reports_units = False
    (outcome,) = Fal(price=0.5, clock=clock).answer(requests(1))
    assert outcome.hosted[1:4] == (1.0, 0.5, True)


def test_captions_are_sent_as_prompts_in_one_job_per_length(api, fal):
    tasks = [Caption("short"), Caption("long")]
    both = [Request(f"r{number}", numbered(number), tasks[number % 2]) for number in range(32)]
    results = results_of(fal.answer(both))
    assert results == {number: f"{CAPTION_PROMPTS[('short', 'long')[number % 2]]} | {number}" for number in range(32)}
    assert sorted((job.arguments["max_tokens"], len(job.pictures)) for job in api.fal.jobs.values()) == [
        (64, 16),
        (512, 16),
    ]


def test_an_unsupported_task_is_a_fault_and_not_sent(api, fal):
    outcomes = list(fal.answer([*requests(2), *requests([5], Detect("dog"))]))
    faults = [outcome.result.message for outcome in outcomes if outcome.id == "r5"]
    assert faults == ["fal does not support the task detect: use another backend"] and len(api.fal.asked) == 2


def test_a_query_with_reasoning_is_a_fault_and_not_sent(api, fal):
    outcomes = list(fal.answer([*requests(2), *requests([5], Query("Why?", reasoning=True))]))
    (fault,) = [outcome.result.message for outcome in outcomes if outcome.id == "r5"]
    assert fault == "fal is not asked for a reasoning: ask without it, or use --backend local"
    assert len(api.fal.asked) == 2


def test_concurrency_limits_the_jobs_in_flight(api, clock):
    list(Fal(concurrency=2, batch_size=1, clock=clock).answer(requests(12)))
    assert len(api.fal.jobs) == 12 and api.fal.max_in_progress == 2


def test_an_endless_stream_is_answered_and_its_jobs_are_cancelled_at_the_end(api, fal):
    def endless():
        number = 0
        while True:
            yield Request(f"r{number}", numbered(number % 100), Query())
            number += 1

    stream = fal.answer(endless())
    assert len({next(stream).id for _ in range(50)}) == 50
    stream.close()
    assert all(job.ended or job.cancelled for job in api.fal.jobs.values()), "unfinished jobs are cancelled"


def test_a_job_is_at_most_max_bytes_large(api, clock, monkeypatch):
    monkeypatch.setattr("moondream_beam.models.hosted.fal.annotator.FalQueue.max_bytes", 5000)
    assert results_of(Fal(clock=clock).answer(requests(16))) == expected(16)
    assert 1 < len(api.fal.jobs) < 16


def test_a_large_picture_is_uploaded_for_an_hour_without_the_key(api, fal, monkeypatch):
    monkeypatch.setattr(module, "MAX_INLINE_BYTES", 3000)
    noise = Image.effect_noise((300, 300), 90).convert("RGB")
    noise.paste(numbered(9, (300, 300)).resize((300, 300)), mask=Image.new("L", (300, 300), 230))
    assert results_of(fal.answer([*requests(2), Request("r9", noise, Query())])) == expected([0, 1, 9])
    ((url, content),) = api.fal.uploads.items()
    assert Image.open(io.BytesIO(content)).size == (300, 300)
    (job,) = api.fal.jobs.values()
    assert [given["image_url"] == url for given in job.arguments["inputs"]] == [False, False, True]
    assert '"expiration_duration_seconds": 3600' in api.fal.upload_headers[0]["X-Fal-Object-Lifecycle"]


def test_a_failed_upload_is_retried(api, fal, monkeypatch):
    monkeypatch.setattr(module, "MAX_INLINE_BYTES", 10)
    api.faults += [Fault("upload", answer(500, "{}"), times=2), Fault("token", answer(503, "{}"), times=1)]
    assert results_of(fal.answer(requests(3))) == expected(3)
    assert len(api.fal.jobs) == 1


def test_send_urls_sends_public_urls_and_the_bytes_of_other_pictures(api, clock):
    api.fal.urls["https://example.org/a.jpg?w=9"] = 3
    uris = {
        3: "https://example.org/a.jpg?w=9",
        4: "http://127.0.0.1/a.jpg",
        5: "https://me:secret@example.org/a.jpg",
        6: "gs://bucket/a.jpg",
        7: None,
        8: "https://intranet/a.jpg",
        9: "https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Signature=00",
        10: "http://2130706433/a.jpg",
    }
    asked = [Request(f"r{number}", numbered(number), Query(), uri=uri) for number, uri in uris.items()]
    assert results_of(Fal(send_urls=True, clock=clock).answer(asked)) == expected(uris)
    (job,) = api.fal.jobs.values()
    assert [given["image_url"].startswith("http") for given in job.arguments["inputs"]] == [True] + 7 * [False]


def test_urls_are_not_sent_by_default(api, fal):
    (outcome,) = fal.answer([Request("r3", numbered(3), Query(), uri="https://example.org/a.jpg")])
    assert outcome.result.text.endswith("| 3")


def test_the_webhook_is_sent_with_a_job(api, clock):
    list(Fal(webhook="https://example.org/hook?a=b", clock=clock).answer(requests(1)))
    assert api.fal.webhooks == ["https://example.org/hook?a=b"]


def test_logs_are_requested_and_logged_at_debug_level_only(api, fal, caplog):
    list(fal.answer(requests(1)))
    assert api.fal.logs_asked == 0
    with caplog.at_level(logging.DEBUG, "moondream_beam.models.hosted.fal.annotator"):
        list(fal.answer(requests(1)))
    assert api.fal.logs_asked > 0 and "loading" in caplog.text


def test_the_delay_between_polls_grows(api, fal, clock):
    api.fal.polls_to_end = 30
    list(fal.answer(requests(1)))
    times = api.times("status")
    pauses = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert pauses[0] < 0.2 and 1.6 <= pauses[-1] <= 2.4 and len(times) == 31


def test_retry_after_pauses_all_jobs(api, fal):
    api.faults.append(Fault("submit", answer(429, "{}", Retry_After="20"), times=2))
    assert results_of(fal.answer(requests(40))) == expected(40)
    first, second, third, *_ = api.times("submit")
    assert second - first >= 20 and third - second >= 20 and len(api.fal.jobs) == 3


def test_retry_after_may_be_a_date(api, fal):
    api.faults.append(Fault("submit", answer(429, "{}", Retry_After=formatdate(time() + 30, usegmt=True)), times=1))
    assert results_of(fal.answer(requests(1))) == expected(1)
    first, second = api.times("submit")
    assert 25 <= second - first <= 40


@pytest.mark.parametrize("when", ["soon", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "nan"])
def test_an_invalid_retry_after_is_ignored(api, fal, when):
    api.faults.append(Fault("submit", answer(429, "{}", Retry_After=when), times=1))
    assert results_of(fal.answer(requests(1))) == expected(1)


def test_retry_after_is_capped_at_ten_minutes(api, fal):
    api.faults.append(Fault("submit", answer(429, "{}", Retry_After="1e9"), times=1))
    assert results_of(fal.answer(requests(1))) == expected(1)
    first, second = api.times("submit")
    assert second - first == pytest.approx(600, abs=3)


def test_a_circuit_breaker_opens_twice_as_long_and_loses_no_request(api, clock):
    api.faults.append(Fault("submit", answer(503, "{}"), times=FAILURES_TO_OPEN + 1))
    fal = Fal(batch_size=1, clock=clock)
    assert results_of(fal.answer(requests(12))) == expected(12)
    times = api.times("submit")
    opened = times[FAILURES_TO_OPEN - 1]
    assert times[FAILURES_TO_OPEN] - opened >= 30, "half open"
    assert times[FAILURES_TO_OPEN + 1] - times[FAILURES_TO_OPEN] >= 60, "twice as long"
    assert len(api.fal.jobs) == 12


def test_an_api_that_stays_down_gives_each_request_a_fault(api, clock):
    api.faults.append(Fault("submit", answer(503, {"detail": "down for ever"}), times=10**9))
    outcomes = list(Fal(batch_size=1, clock=clock).answer(requests(30)))
    assert set(results_of(outcomes).values()) == {"Unavailable"} and len(outcomes) == 30
    assert all(outcome.result.retryable for outcome in outcomes)
    assert api.count("submit") < 60 and not api.fal.jobs


def test_an_api_that_always_throttles_gives_each_request_a_fault(api, clock):
    api.faults.append(Fault("submit", answer(429, {"detail": "slow down"}, Retry_After="60"), times=10**9))
    outcomes = list(Fal(batch_size=1, clock=clock).answer(requests(200)))
    assert set(results_of(outcomes).values()) == {"Unavailable"} and len(outcomes) == 200
    assert api.count("submit") < 100 and clock.now() < 3 * 3600


def test_no_job_is_sent_after_the_budget_is_spent(api, clock):
    # A picture is a quarter of a unit.
    outcomes = list(Fal(price=1.0, max_cost=5.1, batch_size=4, clock=clock).answer(requests(50)))
    results = list(results_of(outcomes).values())
    assert results.count("BudgetSpent") == 30 and len(results) == 50
    assert api.fal.units == 5.0
    assert sum(outcome.hosted.usd for outcome in outcomes) == pytest.approx(5.0)
    assert all(outcome.result.retryable for outcome in outcomes if outcome.hosted.job == "")


def test_one_picture_is_sent_alone_to_find_the_price(api, clock):
    list(Fal(price=1.0, max_cost=0.5, clock=clock).answer(requests(50)))
    assert sorted(len(job.pictures) for job in api.fal.jobs.values()) == [1, 1] and api.fal.units == 0.5


def test_a_picture_billed_at_zero_does_not_show_the_price(api, clock):
    def free(call, response):
        status, body, headers = response
        return status, body, {**headers, "x-fal-billable-units": "0"}

    api.faults.append(Fault("result", free, before=False, times=1))
    list(Fal(price=1.0, max_cost=0.5, clock=clock).answer(requests(50)))
    assert sorted(len(job.pictures) for job in api.fal.jobs.values()) == [1, 1, 1]


def test_a_pickled_annotator_has_no_key_and_no_connection(api, fal):
    stream = fal.answer(requests(40))
    next(stream)
    state = pickle.dumps(fal)
    assert api.fal.key.encode() not in state and api.fal.key.split(":")[1].encode() not in state
    stream.close()
    arrived = pickle.loads(state)
    assert (arrived.name, arrived.revision) == ("vikhyatk/moondream2", ENDPOINT)
    assert results_of(arrived.answer(requests(2))) == expected(2)


def test_streams_of_a_process_share_the_limit_on_jobs_in_flight(api):
    api.fal.polls_to_end = 0
    fal = Fal(concurrency=2, batch_size=1)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda start: results_of(fal.answer(requests(range(start, start + 8)))), (0, 8, 16)))
    assert {**parts[0], **parts[1], **parts[2]} == expected(24)
    assert api.fal.max_in_progress <= 2 and len(api.fal.jobs) == 24


def test_invalid_arguments_are_value_errors():
    for wrong in (
        {"model": "gpt"},
        {"batch_size": 33},
        {"batch_size": 0},
        {"price": -1.0},
        {"max_cost": 1.0},
        {"max_cost": 1.0, "price": 0.0},
        {"price": 1.0, "max_cost": -1.0},
        {"concurrency": 0},
    ):
        with pytest.raises(ValueError, match="fal|give"):
            Fal(**wrong)
