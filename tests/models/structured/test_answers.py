"""Answers with a JSON schema: checked for every annotator, asked for once more, then a fault."""

from __future__ import annotations

import json

import pytest
from support.hosted.pictures import numbered
from support.servers.chat.server import chat_server

from moondream_beam import MoondreamCloud, OpenAIServer
from moondream_beam.models.structured.answers import COLLECTED_REQUESTS, answer_structured
from moondream_beam.models.tasks import Answer, Caption, Fault, Outcome, Query, Request, Sampling

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
GOOD, BAD = '{"n": 1}', '{"n": "one"}'


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def request(number=1, **kwargs):
    return Request(f"r{number}", numbered(number), Query("How many?", schema=SCHEMA), **kwargs)


def answered(server, requests, **options):
    return list(answer_structured(OpenAIServer(server.url, **options).answer, requests))


def test_an_answer_that_fits_is_json_and_asked_for_once(clock):
    with chat_server(answers=[f"```json\n{GOOD}\n```"]) as server:
        (outcome,) = answered(server, [request()], clock=clock)
        (body,) = server.dialect.bodies
    assert outcome.result == Answer("stop", text=GOOD)
    text = body["messages"][0]["content"][1]["text"]
    assert text.startswith("How many?\n") and json.dumps(SCHEMA, sort_keys=True) in text


def test_an_answer_that_does_not_fit_is_asked_for_again_with_the_error(clock):
    with chat_server(answers=[BAD, GOOD]) as server:
        (outcome,) = answered(server, [request()], prices=(1000.0, 1000.0), clock=clock)
        first, second = (body["messages"][0]["content"][1]["text"] for body in server.dialect.bodies)
    assert outcome.id == "r1" and outcome.result.text == GOOD
    assert second.startswith(first) and BAD in second and "'one' is not of type 'integer'" in second
    # Both requests are on the row.
    assert outcome.hosted.units == outcome.tokens.input + outcome.tokens.output > 40
    assert outcome.tokens.output == 4


def test_a_second_answer_that_does_not_fit_is_a_fault(clock):
    with chat_server(answers=[BAD, "no idea"]) as server:
        (outcome,) = answered(server, [request()], clock=clock)
        assert len(server.dialect.bodies) == 2
    fault = outcome.result
    assert (outcome.id, fault.error, fault.retryable, fault.attempts) == ("r1", "InvalidAnswer", True, 2)
    assert "it is not JSON" in fault.message


def test_an_answer_that_ends_at_the_limit_says_so(clock):
    with chat_server(answers=['{"n": "a b', '{"n": "a b']) as server:
        (outcome,) = answered(server, [request(sampling=Sampling(max_tokens=1))], clock=clock)
    assert "raise --max-tokens" in outcome.result.message


def test_many_answers_that_do_not_fit_keep_their_own_requests(clock):
    count = 2 * COLLECTED_REQUESTS + 3

    with chat_server() as server:
        # The first answer names the picture in words, the second one in JSON.
        server.dialect.say = lambda text, number, body: f'{{"n": {number}}}' if "was wrong" in text else f"{number}"
        outcomes = answered(server, [request(number) for number in range(count)], clock=clock)
    assert {outcome.id: outcome.result.text for outcome in outcomes} == {
        f"r{number}": f'{{"n": {number}}}' for number in range(count)
    }


def test_other_tasks_and_faults_pass_unchanged(clock):
    with chat_server(poison={2}) as server:
        plain = Request("plain", numbered(1), Caption("short"))
        results = {o.id: o.result for o in answered(server, [plain, request(2)], clock=clock)}
    assert results["plain"].text.endswith("| 1") and results["r2"].error == "Rejected"


@pytest.mark.parametrize(
    "kind, is_sent", [("vllm", True), ("ollama", True), ("llama.cpp", True), ("transformers", False)]
)
def test_a_server_that_can_gets_the_schema_as_response_format(clock, kind, is_sent):
    with chat_server(kind) as server:
        server.dialect.say = lambda text, number, body: GOOD
        answered(server, [request()], clock=clock)
        questions = [body for body in server.dialect.bodies if "How many" in json.dumps(body["messages"])]
        sent = [body.get("response_format") for body in questions if "image_url" in json.dumps(body)]
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}} if is_sent else None
    assert sent == [wanted]


def test_a_server_that_rejects_the_schema_is_asked_in_words(clock, caplog):
    with chat_server() as server:
        inner = server.dialect.chat

        def chat(body, headers):
            if "response_format" in body:
                return server.dialect.error(400, "failed to parse grammar")
            return inner(body, headers)

        server.dialect.chat = chat
        server.dialect.say = lambda text, number, body: GOOD
        outcomes = answered(server, [request(1), request(2)], clock=clock)
    assert [outcome.result.text for outcome in outcomes] == [GOOD, GOOD]
    assert "failed to parse grammar" in caplog.text and "does not enforce the JSON schema" in caplog.text


def test_moondream_cloud_is_asked_in_words(api, clock):
    (outcome,) = answer_structured(MoondreamCloud(clock=clock).answer, [request()])
    assert outcome.result.error == "InvalidAnswer"
    assert [body["question"].startswith("How many?\n") for body in api.cloud.bodies] == [True, True]


def test_closing_early_closes_the_annotator():
    closed = []

    def answer(requests):
        try:
            for asked in requests:
                yield Outcome(asked.id, Fault("X", "x"), "b")
        finally:
            closed.append(True)

    outcomes = answer_structured(answer, [request(1), request(2)])
    next(outcomes)
    outcomes.close()
    assert closed == [True]
