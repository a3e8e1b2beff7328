"""Faults of vision servers: what is waited for, what is sent again, and what becomes a row in errors/."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset, reset_in_the_middle, silent
from support.hosted.pictures import number_of_data_uri, numbered
from support.hosted.queries import expected, requests, results_of
from support.ports import refusing_port
from support.servers.chat.dialects import DIALECTS
from support.servers.chat.server import chat_server

from moondream_beam import OpenAIServer
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.tasks import Answer, Query, Request, Sampling

LOADING = answer(503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})


@pytest.mark.parametrize(
    "act",
    [
        LOADING,
        answer(429, {"error": {"message": "slow down"}}, Retry_After="3"),
        answer(502, "<html>Bad Gateway"),
    ],
)
def test_a_server_that_is_not_ready_is_waited_for_without_counting_attempts(server, clock, act):
    server.faults.append(Fault("chat", act, times=20))
    assert results_of(OpenAIServer(server.url, clock=clock).answer(requests(10))) == expected(10)
    assert max(server.dialect.asked.values()) == 1


def test_a_server_that_loads_its_model_at_the_start_is_waited_for(server, clock, caplog):
    server.faults.append(Fault("models", LOADING, times=300))
    assert OpenAIServer(server.url, clock=clock).name == "org/model"
    (line,) = [record.message for record in caplog.records if "Loading model" in record.message]
    assert server.url in line and "waiting up to 600 s" in line


def test_a_server_that_never_becomes_ready_is_refused_after_a_while(server, clock):
    server.faults.append(Fault("models", LOADING, times=10**9))
    started = clock.now()
    with pytest.raises(ValueError, match=f"{server.url}.*503: Loading model: wait until the server is ready"):
        _ = OpenAIServer(server.url, clock=clock).name
    assert clock.now() - started == pytest.approx(600, abs=2)


def test_a_ready_server_is_used_while_another_one_loads_its_model(server, clock, caplog):
    with chat_server() as loading:
        loading.faults.append(Fault("models", LOADING, times=10**9))
        started = clock.now()
        assert OpenAIServer([loading.url, server.url], clock=clock).name == "org/model"
    assert clock.now() == started and f"{loading.url}/v1 answered 503" in caplog.text


def test_a_failure_is_retried_twice_and_then_belongs_to_the_row(server, clock):
    server.faults.append(Fault("chat", answer(500, "Internal Server Error"), times=2))
    assert results_of(OpenAIServer(server.url, clock=clock).answer(requests(1))) == expected(1)
    server.faults[:] = [Fault("chat", answer(500, "Internal Server Error"), times=3)]
    (outcome,) = OpenAIServer(server.url, clock=clock).answer(requests(1))
    fault = outcome.result
    assert (fault.error, fault.retryable, fault.attempts) == ("Unavailable", True, 3)
    assert "500: Internal Server Error" in outcome.result.message


@pytest.mark.parametrize("act", [reset, reset_in_the_middle, ends_early, garbled(lambda text: text[:9])])
def test_a_lost_answer_of_a_free_server_is_asked_for_again(server, clock, act):
    server.faults.append(Fault("chat", act, before=False, times=3))
    assert results_of(OpenAIServer(server.url, clock=clock).answer(requests(6))) == expected(6)


def test_a_picture_that_breaks_every_connection_becomes_a_fault(server, clock):
    server.faults.append(Fault("chat", reset, times=10**9, where=lambda call: poisoned(call, 2)))
    results = results_of(OpenAIServer(server.url, clock=clock).answer(requests(4)))
    assert results == {**expected(4), 2: "Unavailable"}


def poisoned(call, number):
    picture = json.loads(call.body)["messages"][0]["content"][0]
    return picture["type"] == "image_url" and number_of_data_uri(picture["image_url"]["url"]) == number


@pytest.mark.parametrize("act", [reset, ends_early])
def test_a_lost_answer_of_a_paid_server_is_not_asked_for_again(server, clock, act):
    server.faults.append(Fault("chat", act, before=False, times=1))
    results = results_of(OpenAIServer(server.url, prices=(1.0, 2.0), clock=clock).answer(requests(6)))
    assert sorted(results.values()).count("LostAnswer") == 1
    assert max(server.dialect.asked.values()) == 1


@pytest.mark.parametrize("kind", [kind for kind in DIALECTS if kind != "transformers"])
def test_a_bad_picture_is_blamed_after_a_probe_and_no_other_fails(kind, clock):
    with chat_server(kind, poison={2}) as server:
        outcomes = {o.id: o.result for o in OpenAIServer(server.url, clock=clock).answer(requests(5))}
        assert {id: type(result) is Answer for id, result in outcomes.items()} == {
            **{f"r{n}": True for n in range(5)},
            "r2": False,
        }
        assert outcomes["r2"].error == "Rejected" and "Failed to load image" in outcomes["r2"].message
        assert any(text.startswith("Name the colours") for text, number in server.dialect.asked)


def test_a_server_that_says_500_for_a_bad_picture_fails_that_row_only(clock):
    with chat_server("transformers", poison={2}) as server:
        results = results_of(OpenAIServer(server.url, clock=clock).answer(requests(5)))
        assert results == {**expected(5), 2: "Unavailable"}


@pytest.mark.parametrize("kind", ["vllm", "sglang", "ollama"])
def test_a_rejection_of_all_pictures_stops_the_run_and_blames_no_row(kind, clock):
    with chat_server(kind, rejects="this model takes no pictures") as server:
        annotator = OpenAIServer(server.url, clock=clock)
        with pytest.raises(AccountError, match="this model takes no pictures"):
            list(annotator.answer(requests(5)))
        with pytest.raises(ValueError, match="this model takes no pictures"):
            annotator.check_servers()


def test_a_server_that_ignores_pictures_is_refused(clock):
    with chat_server("ollama", is_blind=True) as server:
        with pytest.raises(ValueError, match="ignores pictures"):
            OpenAIServer(server.url, clock=clock).check_servers()
        assert set(results_of(OpenAIServer(server.url, clock=clock).answer(requests(3))).values()) == {"CutPrompt"}


def test_a_prompt_that_the_server_cut_is_a_fault(clock):
    with chat_server("ollama", context=60) as server:
        small = Request("r1", numbered(1), Query("What?"))
        large = Request("r2", numbered(2, (400, 400)), Query("What?"))
        results = results_of(OpenAIServer(server.url, clock=clock).answer([small, large]))
        assert results == {1: "What? | 1", 2: "CutPrompt"}


def test_a_prompt_that_is_too_long_for_the_context_is_a_rejected_row(clock):
    with chat_server("vllm", context=60) as server:
        large = Request("r2", numbered(2, (400, 400)), Query("What?"))
        (outcome,) = OpenAIServer(server.url, clock=clock).answer([large])
        assert outcome.result.error == "Rejected" and "maximum context length" in outcome.result.message


def test_a_server_that_does_not_count_cached_tokens_cuts_nothing(clock):
    def uncached(body):
        return {**body, "usage": {**body["usage"], "prompt_tokens": next(counts)}}

    counts = iter([16, 0, *[1] * 99])
    with chat_server("ollama") as server:
        server.faults.append(Fault("chat", changed(uncached), before=False, times=99))
        assert results_of(OpenAIServer(server.url, clock=clock).answer(requests(3))) == expected(3)


@pytest.mark.parametrize("finish", ["abort", "error", "load", "unload"])
def test_a_broken_off_answer_is_a_fault(clock, finish):
    with chat_server("sglang", finish=finish) as server:
        (outcome,) = OpenAIServer(server.url, clock=clock).answer(requests(1))
        assert (outcome.result.error, outcome.result.retryable) == ("BrokenAnswer", True)
        assert finish in outcome.result.message


@pytest.mark.parametrize("content", ["", "  \n", None])
def test_an_empty_answer_is_a_fault(server, clock, content):
    def emptied(body):
        body["choices"][0]["message"]["content"] = content
        return body

    server.faults.append(Fault("chat", changed(emptied), before=False))
    (outcome,) = OpenAIServer(server.url, clock=clock).answer(requests(1))
    assert outcome.result.error == "EmptyAnswer"


def test_a_limit_on_tokens_is_finish_reason_length(server, clock):
    (outcome,) = OpenAIServer(server.url, clock=clock).answer(
        [Request("r1", numbered(1), Query("One two three"), Sampling(max_tokens=2))]
    )
    assert outcome.result == Answer("length", text="One two three | 1")


def test_a_server_that_knows_the_other_token_limit_gets_that(clock):
    with chat_server("unknown") as server:
        assert results_of(OpenAIServer(server.url, clock=clock).answer(requests(3))) == expected(3)
        assert all("max_tokens" not in body and body["max_completion_tokens"] for body in server.dialect.bodies)


def test_a_request_has_a_time_limit_and_a_hung_server_is_tested_before_reuse(server, clock, caplog):
    server.faults.append(Fault("chat", silent(60.0), times=1))
    annotator = OpenAIServer(server.url, timeout_s=2.0, clock=clock)
    assert results_of(annotator.answer(requests(3))) == expected(3)
    assert "no answer within 2 s" in caplog.text
    assert ("Name the colours of this picture.", None) not in server.dialect.asked
    assert any(text.startswith("Name the colours") for text, _ in server.dialect.asked)


def test_a_request_that_always_hangs_becomes_a_fault(server, clock):
    server.faults.append(Fault("chat", silent(60.0), times=9, where=lambda call: poisoned(call, 1)))
    annotator = OpenAIServer(server.url, timeout_s=2.0, clock=clock)
    assert results_of(annotator.answer(requests(3))) == {**expected(3), 1: "Unavailable"}


def test_several_servers_share_the_load_and_a_picture_stays_with_one(clock):
    with chat_server() as one, chat_server() as two:
        annotator = OpenAIServer([one.url, two.url], clock=clock)
        tasks = [Query("A?"), Query("B?")]
        asked = [Request(f"{n} {task.question}", numbered(n), task) for n in range(20) for task in tasks]
        by_picture = {}
        for request in asked:
            by_picture.setdefault(request.id.split()[0], request.picture)
        asked = [Request(r.id, by_picture[r.id.split()[0]], r.task) for r in asked]
        texts = {outcome.id: outcome.result.text for outcome in annotator.answer(asked)}
        assert texts == {f"{n} {task.question}": f"{task.question} | {n}" for n in range(20) for task in tasks}
        seen = [{number for _, number in server.dialect.asked} for server in (one, two)]
        # Two threads may choose at one moment, now and then. By chance, about 10 pictures would be seen twice.
        assert all(seen) and len(seen[0] & seen[1]) <= 3


def test_one_server_that_is_down_is_a_warning(server, clock, caplog):
    with refusing_port() as port, caplog.at_level(logging.WARNING):
        url = f"http://127.0.0.1:{port}"
        assert results_of(OpenAIServer([url, server.url], clock=clock).answer(requests(20))) == expected(20)
    assert url in caplog.text and "can't be reached" in caplog.text


def test_a_server_that_goes_down_in_the_middle_leaves_the_rest_to_the_other(server, clock, caplog):
    with chat_server() as other:
        stream = OpenAIServer([other.url, server.url], clock=clock).answer(requests(200))
        first = [next(stream) for _ in range(5)]
        # Open connections end too, as they do when a process is killed.
        other.faults.append(Fault("chat", reset, times=10**9))
        other.shutdown()
        other.server_close()
        # More than there are open connections, so that one is refused.
        assert results_of([*first, *stream]) == expected(200)
    assert "1 other servers answer" in caplog.text


def test_a_request_whose_connection_breaks_goes_to_another_server(server, clock):
    with chat_server() as other:
        other.faults.append(Fault("chat", reset, times=10**9))
        assert results_of(OpenAIServer([other.url, server.url], clock=clock).answer(requests(60))) == expected(60)


def test_a_stream_that_is_closed_early_does_not_wait_for_calls_in_flight(server):
    hung = threading.Event()

    def hangs(exchange, response):
        hung.wait(60)

    server.faults.append(Fault("chat", hangs, times=99, where=lambda call: not poisoned(call, 0)))
    stream = OpenAIServer(server.url, concurrency=4).answer(requests(9))
    next(stream)
    started = time.monotonic()
    stream.close()
    hung.set()
    assert time.monotonic() - started < 30
