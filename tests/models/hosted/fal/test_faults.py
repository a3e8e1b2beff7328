"""Faults of fal and of the network: each request has one outcome, and no job is paid for twice."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest
from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset, reset_in_the_middle, silent
from support.hosted.pictures import numbered
from support.hosted.queries import expected, requests, results_of

from moondream_beam.models.hosted.fal.annotator import MODELS, Fal, FalQueue
from moondream_beam.models.hosted.fal.client import FalClient
from moondream_beam.models.hosted.http import transport
from moondream_beam.models.hosted.http.errors import AccountError, LostAnswerError, RejectedError
from moondream_beam.models.hosted.http.images import encode
from moondream_beam.models.hosted.service import Item, Settings
from moondream_beam.models.tasks import Fault as TaskFault
from moondream_beam.models.tasks import Query

NGINX = answer(502, "<html><center>nginx</center></html>")
ANSWERS = {
    "429": answer(429, {"detail": "slow down"}),
    "429 wait": answer(429, {"detail": "slow down"}, Retry_After="3"),
    "503 wait": answer(503, {"detail": "busy"}, Retry_After="3"),
    "409": answer(409, {"detail": "conflict"}),
    "408": answer(408, {"detail": "timeout"}),
    "500": answer(500, {"detail": "Internal Server Error"}),
    "502 json": answer(502, {"detail": "bad gateway"}),
    "502 nginx": NGINX,
    "503 of fal": answer(503, "nginx", x_fal_request_id="1"),
    "504 user": answer(504, {"detail": "Request timed out"}, X_Fal_Request_Timeout_Type="user"),
}
BROKEN = {
    "reset": reset,
    "reset in the middle": reset_in_the_middle,
    "ends early": ends_early,
}
GARBLED = {
    "cut": garbled(lambda text: text[:15]),
    "html": garbled(lambda text: "<html>moved</html>"),
    "empty": garbled(lambda text: ""),
    "list": garbled(lambda text: "[]"),
}


def each_of(table):
    return pytest.mark.parametrize("act", table.values(), ids=table)


def polls(table, but=()):
    """Parametrize over status calls and result calls; ``but`` names acts that mean a failed job in a result call."""
    cases = [("status", name) for name in table] + [("result", name) for name in table if name not in but]
    ids = [f"{operation} {name}" for operation, name in cases]
    return pytest.mark.parametrize(
        ("operation", "act"), [(operation, table[name]) for operation, name in cases], ids=ids
    )


@pytest.fixture
def fal(api, clock):
    return Fal(batch_size=4, clock=clock)


def assert_nothing_was_paid_twice(api):
    assert max(api.fal.asked.values()) == 1


@each_of(ANSWERS)
def test_a_refused_submission_is_retried(api, fal, act):
    api.faults.append(Fault("submit", act, times=3))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3 and api.count("submit") == 6


@polls(ANSWERS, but=("500", "502 json", "504 user"))
def test_a_failed_poll_is_retried_and_its_job_not_sent_again(api, fal, operation, act):
    api.faults.append(Fault(operation, act, times=3))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


@polls(BROKEN)
def test_a_poll_with_a_broken_connection_is_retried(api, fal, operation, act):
    api.faults.append(Fault(operation, act, before=False, times=3))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


@polls(GARBLED, but=("list",))
def test_a_poll_with_an_invalid_answer_is_retried(api, fal, operation, act):
    api.faults.append(Fault(operation, act, before=False, times=3))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


@pytest.mark.parametrize("key", ["status", "logs", "queue_position"])
def test_a_status_with_a_missing_key_is_polled_again(api, fal, key):
    act = changed(lambda body: {name: value for name, value in body.items() if name != key})
    api.faults.append(Fault("status", act, before=False, times=3))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


def test_an_unknown_status_is_polled_again(api, fal):
    api.faults.append(Fault("status", changed(lambda body: {**body, "status": "FAILED"}), before=False, times=3))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


@each_of(BROKEN | {"before it was read": "before"})
def test_a_submission_with_a_lost_answer_is_not_sent_again(api, fal, act):
    before = act == "before"
    api.faults.append(Fault("submit", reset if before else act, before=before, times=2))
    outcomes = list(fal.answer(requests(12)))
    results = results_of(outcomes)
    lost = [number for number, text in results.items() if text == "LostAnswer"]
    assert len(lost) == 8 and {**results, **expected(lost)} == expected(12)
    faults = [outcome.result for outcome in outcomes if isinstance(outcome.result, TaskFault)]
    assert all(fault.retryable and "--retry-errors" in fault.message for fault in faults)
    assert_nothing_was_paid_twice(api)
    assert api.count("submit") == 3


@each_of(GARBLED | {"no urls": changed(lambda body: {"request_id": body["request_id"]})})
def test_a_job_with_an_invalid_answer_is_found_by_its_header(api, fal, act):
    api.faults.append(Fault("submit", act, before=False, times=2))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


def test_an_invalid_answer_without_the_header_is_a_lost_answer(api, fal):
    api.faults.append(Fault("submit", lambda call, response: (200, "<html>", {}), before=False, times=1))
    assert list(results_of(fal.answer(requests(4))).values()) == ["LostAnswer"] * 4
    assert_nothing_was_paid_twice(api)


def test_an_answer_without_any_header_is_a_lost_answer(api, fal):
    def bare(call, response):
        call.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>")
        call.wfile.flush()
        call.disconnect()

    api.faults.append(Fault("submit", bare, before=False, times=1))
    assert list(results_of(fal.answer(requests(4))).values()) == ["LostAnswer"] * 4
    assert_nothing_was_paid_twice(api)


@pytest.mark.parametrize("job", ["../../../other/app", "", "x" * 200, "a b"])
def test_a_job_with_an_invalid_id_is_not_polled(api, fal, job):
    api.faults.append(Fault("submit", changed(lambda body: {**body, "request_id": job}), before=False, times=1))
    assert list(results_of(fal.answer(requests(4))).values()) == ["LostAnswer"] * 4
    assert api.count("status") == 0


def test_the_key_is_not_sent_to_urls_in_an_answer(api, fal):
    elsewhere = "https://storage.example.com/steal"
    urls = dict.fromkeys(("status_url", "response_url", "cancel_url"), elsewhere)
    api.faults.append(Fault("submit", changed(lambda body: {**body, **urls}), before=False, times=3))
    api.faults.append(Fault("status", answer(302, "", Location=elsewhere), times=2))
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert set(api.keys) == {"queue.fal.run"}


@pytest.mark.parametrize("operation", ["submit", "status", "result"])
def test_a_call_has_a_timeout(api, fal, monkeypatch, operation):
    # A status or a result that is late by chance is asked for again. A submission is not.
    phase, limit_s = {"submit": ("submit", 2.0), "status": ("poll", 0.3), "result": ("result", 0.3)}[operation]
    monkeypatch.setitem(transport.TIMEOUT_S, phase, limit_s)
    api.faults.append(Fault(operation, silent(60.0), before=False, times=1))
    results = results_of(fal.answer(requests(4)))
    assert results == expected(4) if operation != "submit" else set(results.values()) == {"LostAnswer"}
    assert_nothing_was_paid_twice(api)


def test_an_unreachable_api_is_retried(api, fal):
    api.unreachable["queue.fal.run"] = 3
    assert results_of(fal.answer(requests(12))) == expected(12)
    assert len(api.fal.jobs) == 3


def test_a_poll_with_a_too_large_answer_is_retried(api, fal, monkeypatch):
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 2000)
    api.faults.append(Fault("result", changed(lambda body: {**body, "timings": "x" * 3000}), before=False, times=1))
    assert results_of(fal.answer(requests(4))) == expected(4)
    assert len(api.fal.jobs) == 1


def test_a_failed_job_is_polled_a_second_time(api, fal):
    api.faults.append(Fault("result", ANSWERS["500"], times=1))
    assert results_of(fal.answer(requests(4))) == expected(4)
    assert len(api.fal.jobs) == 1, "the second poll had the result"


def test_a_job_that_failed_twice_is_sent_again(api, fal):
    api.faults.append(Fault("result", ANSWERS["500"], times=2))
    assert results_of(fal.answer(requests(4))) == expected(4)
    assert len(api.fal.jobs) == 2, "a failed job is not billed"


def test_a_job_that_must_not_be_retried_is_sent_in_halves(api, fal):
    act = answer(500, {"detail": "no"}, x_fal_needs_retry="0")
    api.faults.append(Fault("result", act, times=1))
    assert results_of(fal.answer(requests(4))) == expected(4)
    assert sorted(len(job.pictures) for job in api.fal.jobs.values()) == [2, 2, 4]


@pytest.mark.parametrize("poison_is", ["index", "input", "nothing", "crash"])
@pytest.mark.parametrize("poison", [{5}, {1, 6}])
def test_only_the_bad_picture_of_a_job_fails(api, clock, poison_is, poison):
    api.fal.poison, api.fal.poison_is = poison, poison_is
    results = results_of(Fal(batch_size=8, clock=clock).answer(requests(16)))
    bad = dict.fromkeys(poison, "Unavailable" if poison_is == "crash" else "Rejected")
    assert results == {**expected(16), **bad}
    jobs = len(api.fal.jobs)
    if poison_is in ("index", "input"):
        assert jobs == 3, "the API names the bad pictures: the others are sent once more, as one job"
    elif poison_is == "nothing":
        assert jobs <= 2 + 2 * 3 * len(poison), "the bad pictures are found by halves"


def test_an_index_out_of_range_fails_no_picture(api, fal):
    fault = {"type": "missing", "loc": ["body", "inputs", 99, "image_url"], "msg": "Field required"}
    api.faults.append(Fault("result", answer(422, {"detail": [fault]}), times=1))
    assert results_of(fal.answer(requests(4))) == expected(4)


def test_a_picture_rejected_at_submission_fails_alone(api, fal):
    fault = {"type": "missing", "loc": ["body", "inputs", 2, "image_url"], "msg": "Field required"}
    api.faults.append(Fault("submit", answer(422, {"detail": [fault]}), times=1))
    outcomes = list(fal.answer(requests(4)))
    assert results_of(outcomes) == {**expected(4), 2: "Rejected"}
    (message,) = (o.result.message for o in outcomes if o.id == "r2")
    assert message.startswith("missing: Field required; ") and "picture" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda body: {**body, "outputs": body["outputs"][:-1]},
        lambda body: {**body, "outputs": [*body["outputs"], "one more"]},
        lambda body: {**body, "outputs": []},
        lambda body: {**body, "outputs": "text"},
        lambda body: {name: value for name, value in body.items() if name != "outputs"},
        lambda body: [],
    ],
    ids=["one short", "one more", "none", "text", "missing", "list"],
)
def test_mismatched_outputs_are_asked_again_in_halves(api, fal, change):
    act = changed(lambda body: change(body) if not isinstance(body, dict) or len(body["outputs"]) == 4 else body)
    api.faults.append(Fault("result", act, before=False, times=10**9))
    outcomes = list(fal.answer(requests(8)))
    assert results_of(outcomes) == expected(8)
    assert sorted(len(job.pictures) for job in api.fal.jobs.values()) == [2, 2, 2, 2, 4, 4]
    assert {outcome.hosted.units for outcome in outcomes} == {0.5}, "both jobs were billed"


def test_a_picture_that_always_mismatches_is_a_fault(api, fal):
    api.faults.append(Fault("result", changed(lambda body: {**body, "outputs": []}), before=False, times=10**9))
    assert results_of(fal.answer(requests(2))) == {0: "MismatchedAnswer", 1: "MismatchedAnswer"}
    assert len(api.fal.jobs) == 3


@pytest.mark.parametrize("output", [None, "", "  \n", 7, {}])
def test_an_empty_output_is_a_fault_of_its_picture_only(api, fal, output):
    act = changed(lambda body: {**body, "outputs": [output, *body["outputs"][1:]]})
    api.faults.append(Fault("result", act, before=False, times=1))
    assert results_of(fal.answer(requests(4))) == {**expected(4), 0: "EmptyAnswer"}
    assert len(api.fal.jobs) == 1, "the job was paid for, so it is not sent again"


def test_a_partial_output_has_the_finish_reason_length(api, fal):
    api.faults.append(Fault("result", changed(lambda body: {**body, "partial": True}), before=False, times=1))
    reasons = {outcome.result.finish_reason for outcome in fal.answer(requests(4))}
    assert reasons == {"length"}


@pytest.mark.parametrize("timings", [None, "fast", {"inference": "soon", "x": float("nan")}, {"inference": -5}])
def test_invalid_timings_are_ignored(api, fal, timings):
    act = garbled(lambda text: json.dumps({**json.loads(text), "timings": timings, "filenames": 5}))
    api.faults.append(Fault("result", act, before=False, times=1))
    assert results_of(fal.answer(requests(4))) == expected(4)


@pytest.mark.parametrize("operation", ["status", "result"])
def test_an_unknown_job_is_a_lost_answer(api, fal, operation):
    api.faults.append(Fault(operation, answer(404, {"status": "NOT_FOUND"}), times=1))
    results = results_of(fal.answer(requests(8)))
    assert list(results.values()).count("LostAnswer") == 4
    assert_nothing_was_paid_twice(api)


def test_a_gateway_timeout_of_a_submission_is_a_lost_answer(api, fal):
    api.faults += [Fault("submit", answer(status, "<html>"), before=False, times=1) for status in (504, 524)]
    assert list(results_of(fal.answer(requests(12))).values()).count("LostAnswer") == 8
    assert_nothing_was_paid_twice(api)


def test_a_rejected_submission_is_rejected_whatever_its_message(api, fal):
    api.faults.append(Fault("submit", answer(400, {"detail": "Request is still in progress"}), times=10**9))
    assert set(results_of(fal.answer(requests(4))).values()) == {"Rejected"}


def test_the_cost_of_a_rejected_job_is_on_the_rows_and_in_the_budget(api, clock):
    fault = {"type": "missing", "loc": ["body", "inputs", 1, "image_url"], "msg": "Field required"}
    billed = answer(422, {"detail": [fault]}, x_fal_billable_units="2")
    api.faults.append(Fault("result", billed, times=1, where=lambda call: len(api.fal.jobs) == 2))
    fal = Fal(price=1.0, max_cost=2.25, concurrency=1, batch_size=4, clock=clock)
    outcomes = list(fal.answer(requests(9)))
    assert results_of(outcomes) == {**dict.fromkeys(range(9), "BudgetSpent"), **expected(1), 2: "Rejected"}
    assert sum(outcome.hosted.units for outcome in outcomes) == 2.25


def test_a_result_that_is_still_in_progress_is_polled_again(api, fal):
    api.faults.append(Fault("result", answer(400, {"detail": "Request is still in progress"}), times=2))
    assert results_of(fal.answer(requests(4))) == expected(4)
    assert len(api.fal.jobs) == 1


def test_a_job_past_its_deadline_is_cancelled_and_a_timeout(api, fal):
    api.fal.polls_to_end = 10**9
    assert set(results_of(fal.answer(requests(4))).values()) == {"Timeout"}
    (job,) = api.fal.jobs.values()
    assert job.cancelled and api.count("cancel") == 1


def test_a_job_that_ended_before_its_cancel_is_delivered(api, fal, clock):
    stuck = answer(202, {"status": "IN_PROGRESS", "logs": None})
    api.faults.append(Fault("status", stuck, times=10**9, where=lambda call: clock.now() < 2800.0))
    assert results_of(fal.answer(requests(4))) == expected(4)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_account_is_one_line_without_the_key(api, clock, status):
    said = {"detail": f"invalid\nkey {api.fal.key}"}
    api.faults.append(Fault("submit", answer(status, said), times=10**9))
    with pytest.raises(AccountError, match=f"fal answered {status}: invalid key") as refusal:
        list(Fal(clock=clock).answer(requests(200)))
    assert api.fal.key not in str(refusal.value) and api.count("submit") == 1


def test_a_missing_endpoint_is_an_account_error(api, fal):
    api.faults.append(Fault("submit", answer(404, {"detail": "Application not found"}), times=1))
    with pytest.raises(AccountError, match="404: Application not found"):
        list(fal.answer(requests(4)))


def test_jobs_in_flight_are_delivered_after_the_account_is_locked(api, fal):
    api.fal.locked_after = 2
    outcomes = []
    with pytest.raises(AccountError, match="403: User is locked. Reason: Exhausted balance"):
        for outcome in fal.answer(requests(40)):
            outcomes.append(outcome)
    assert results_of(outcomes) == expected(8)


def test_the_newline_after_a_key_is_ignored(api, fal, monkeypatch):
    monkeypatch.setenv("FAL_KEY", f"{api.fal.key}\n")
    assert results_of(fal.answer(requests(4))) == expected(4)


def test_a_key_with_an_invalid_character_is_refused_and_not_shown(api, fal, monkeypatch):
    for wrong in (f"{api.fal.key}\n{api.fal.key}", f"{api.fal.key} x", f"{api.fal.key}\u2019"):
        monkeypatch.setenv("FAL_KEY", wrong)
        with pytest.raises(AccountError, match="FAL_KEY contains a space .*: copy the key again") as refusal:
            list(fal.answer(requests(1)))
        assert "secret" not in str(refusal.value)
    assert not api.calls


def test_the_error_for_an_invalid_header_does_not_quote_the_header(api):
    strict = transport.StrictTransport(transport.Connections(), "fal", "")
    with httpx.Client(transport=strict) as client, pytest.raises(LostAnswerError) as lost:
        client.post("https://queue.fal.run/x", headers={"Authorization": "Key se\ncret"})
    assert str(lost.value) == "LocalProtocolError"


def test_an_unsendable_job_does_not_get_the_id_of_the_job_before(api):
    queue = FalQueue(FalClient(key=api.fal.key), MODELS[0], 4, None, None)
    item = Item("r1", Query("Why?"), Settings(64, 0.0, 0.9, 1.0), None, 0.0, encode(numbered(1)))
    queue.submit([item])
    with pytest.raises(RejectedError, match=r"can't send the job \(ValueError\): check --webhook"):
        queue.submit([replace(item, settings=item.settings._replace(top_p=float("nan")))])
    queue.close()
    assert len(api.fal.jobs) == 1


def test_a_missing_key_is_one_line_with_the_page_of_keys(api, fal, monkeypatch):
    monkeypatch.delenv("FAL_KEY")
    with pytest.raises(AccountError, match="no FAL_KEY in the environment; get a key at https://fal.ai"):
        list(fal.answer(requests(1)))
    assert not api.calls
