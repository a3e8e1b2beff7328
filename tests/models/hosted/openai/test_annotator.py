"""Vision servers: each dialect answers captions and queries, within its limits."""

from __future__ import annotations

import base64
import io
import json
import pickle
import threading

import pytest
from PIL import Image
from support.hosted.faults import Fault, answer
from support.hosted.pictures import number_of_data_uri, numbered
from support.hosted.queries import expected, requests, results_of
from support.ports import refusing_port
from support.servers.chat.dialects import DIALECTS
from support.servers.chat.server import chat_server

from moondream_beam import OpenAIServer
from moondream_beam.models.hosted.http.errors import AccountError
from moondream_beam.models.tasks import Caption, Query, Request, Sampling

KEY = "sk-test-secret-0123456789"


def test_every_kind_of_server_answers_each_picture_with_its_own_answer(clock):
    for kind in DIALECTS:
        with chat_server(kind) as server:
            annotator = OpenAIServer(server.url, clock=clock)
            outcomes = list(annotator.answer(requests(20)))
            assert results_of(outcomes) == expected(20), kind
            assert {outcome.backend for outcome in outcomes} == {f"openai/{kind}/org/model"}
            assert all(outcome.tokens.input > 10 and outcome.tokens.output > 0 for outcome in outcomes)
            assert all(outcome.timings.generate_ms > 0 for outcome in outcomes)
            assert {outcome.hosted for outcome in outcomes} == {None}


@pytest.mark.parametrize(
    "kind, revision",
    [
        ("vllm", "/weights/v3"),
        ("sglang", "step-900"),
        ("llama.cpp", "qwen.gguf of 1234 bytes"),
        ("ollama", "0123abcd"),
        ("lmdeploy", "unknown"),
        ("lmstudio", "Q4_K_M"),
        ("transformers", "unknown"),
        ("unknown", "unknown"),
    ],
)
def test_model_and_revision_are_what_the_server_tells(kind, revision, caplog):
    model = "org/model:latest" if kind == "ollama" else "org/model"
    with chat_server(kind, model=model) as server:
        annotator = OpenAIServer(server.url + "/v1/")
        assert (annotator.name, annotator.revision) == (model, revision)
    assert ("does not tell the revision" in caplog.text) == (revision == "unknown")


def test_a_given_model_and_revision_need_no_server():
    annotator = OpenAIServer("http://127.0.0.1:9", "mine", revision="r1")
    assert (annotator.name, annotator.revision) == ("mine", "r1")


def test_what_changes_answers_is_part_of_the_revision(server):
    plain = OpenAIServer(server.url)
    small = OpenAIServer(server.url, max_pixels=500_000)
    other = OpenAIServer(server.url, caption_prompts={"short": "What is it?"})
    assert small.revision == f"{plain.revision}; max_pixels 500000"
    assert other.revision.startswith(f"{plain.revision}; caption_prompts ")


def test_a_body_has_the_picture_first_and_only_known_fields(server, clock):
    drawn = Sampling(max_tokens=9, temperature=0.5, top_p=0.9)
    list(OpenAIServer(server.url, clock=clock).answer([Request("r7", numbered(7), Query("Why?"), drawn)]))
    (body,) = server.dialect.bodies
    (message,) = body.pop("messages")
    picture, text = message["content"]
    assert number_of_data_uri(picture["image_url"]["url"]) == 7 and text == {"type": "text", "text": "Why?"}
    assert 0 <= body.pop("seed") < 2**31
    assert body == {"model": "org/model", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9}


def test_the_seed_follows_from_the_id(server, clock):
    annotator = OpenAIServer(server.url, clock=clock)
    for _ in range(2):
        list(annotator.answer(sorted(requests(3), key=lambda request: request.id)))
    seeds = [body["seed"] for body in server.dialect.bodies]
    assert sorted(seeds[:3]) == sorted(seeds[3:]) and len(set(seeds)) == 3


def test_a_caption_has_a_prompt_for_each_length(server, clock):
    annotator = OpenAIServer(server.url, caption_prompts={"long": "Tell all."}, clock=clock)
    asked = [Request(length, numbered(3), Caption(length)) for length in ("short", "long")]
    texts = {outcome.id: outcome.result.text for outcome in annotator.answer(asked)}
    assert texts == {"short": "Describe this image in one short sentence. | 3", "long": "Tell all. | 3"}


def test_pictures_are_bounded_by_max_pixels(server, clock):
    large = Request("r5", numbered(5, (2000, 1000)), Query())
    assert results_of(OpenAIServer(server.url, max_pixels=20_000, clock=clock).answer([large])) == expected([5])
    (body,) = server.dialect.bodies
    content = base64.b64decode(body["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (200, 100)


def test_reduced_pictures_need_twice_the_side_that_is_sent():
    annotator = OpenAIServer("http://localhost", max_pixels=10_000)
    assert annotator.accepts_reduced((9000, 9000), (200, 200))
    assert not annotator.accepts_reduced((9000, 9000), (199, 200))


def test_requests_are_in_flight_together_up_to_the_limit(clock):
    together = threading.Barrier(8)

    def waits(exchange, response):
        together.wait(20)
        return response

    with chat_server() as server:
        server.faults.append(Fault("chat", waits, before=False, times=16))
        assert results_of(OpenAIServer(server.url, concurrency=8, clock=clock).answer(requests(16))) == expected(16)
        assert server.max_in_flight == 8


def test_a_slow_answer_holds_up_no_other(server):
    release = threading.Event()

    def waits(exchange, response):
        release.wait(20)
        return response

    server.faults.append(Fault("chat", waits, before=False, times=1))
    outcomes = OpenAIServer(server.url, concurrency=4).answer(requests(30))
    early = [next(outcomes) for _ in range(29)]
    release.set()
    assert results_of([*early, *outcomes]) == expected(30)


def test_servers_with_different_models_are_refused(server):
    with chat_server(model="org/other") as other, pytest.raises(ValueError, match="give servers with the same model"):
        _ = OpenAIServer([server.url, other.url]).name


def test_no_server_at_all_is_one_line():
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(ValueError, match=f"{url}.* can't be reached.*check the address, and start the server"):
            _ = OpenAIServer(url).name


def test_several_models_need_a_name(server):
    server.faults.append(Fault("models", answer(200, {"data": [{"id": "a"}, {"id": "b"}]}), times=1))
    with pytest.raises(ValueError, match="has a, b: name one with --model"):
        _ = OpenAIServer(server.url).name


def test_llama_cpp_must_have_the_named_model():
    with chat_server("llama.cpp") as server, pytest.raises(ValueError, match="has org/model, not mine"):
        OpenAIServer(server.url, "mine").discover()


def test_an_unknown_model_stops_the_run_with_one_line(server, clock):
    with pytest.raises(AccountError, match="404.*`mine` does not exist"):
        list(OpenAIServer(server.url, "mine", revision="x", clock=clock).answer(requests(2)))


def test_the_key_comes_from_the_environment_and_is_in_no_pickle_or_message(clock, monkeypatch):
    with chat_server(key=KEY) as server:
        monkeypatch.setenv("MY_KEY", KEY)
        annotator = OpenAIServer(server.url, api_key_env="MY_KEY", clock=clock)
        assert results_of(annotator.answer(requests(2))) == expected(2)
        assert server.keys == {f"Bearer {KEY}"}
        assert KEY.encode() not in pickle.dumps(annotator)
        monkeypatch.setenv("MY_KEY", KEY + "x")
        with pytest.raises(AccountError, match="401") as refusal:
            list(OpenAIServer(server.url, api_key_env="MY_KEY", clock=clock).answer(requests(2)))
        assert KEY not in str(refusal.value)
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(ValueError, match="no MY_KEY in the environment"):
            OpenAIServer(server.url, api_key_env="MY_KEY").check()


def test_without_a_key_none_is_sent(server, clock):
    list(OpenAIServer(server.url, clock=clock).answer(requests(1)))
    assert server.keys == {None}


def test_paid_tokens_are_billed_and_limited(server, clock):
    annotator = OpenAIServer(server.url, prices=(1000.0, 2000.0), clock=clock)
    (outcome,) = annotator.answer(requests(1))
    tokens = outcome.tokens
    assert outcome.hosted.usd == pytest.approx((tokens.input * 1000 + tokens.output * 2000) / 1e6)
    assert outcome.hosted.units == tokens.input + tokens.output
    assert json.loads(outcome.hosted.response)["finish_reason"] == "stop"
    limited = OpenAIServer(server.url, prices=(1000.0, 2000.0), max_cost=3.5 * outcome.hosted.usd, clock=clock)
    assert sorted(results_of(limited.answer(requests(6))).values()).count("BudgetSpent") == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": []},
        {"base_url": "ftp://x"},
        {"base_url": "http://user:secret@x"},
        {"base_url": "http://x?key=secret"},
        {"base_url": ["http://x", "http://x/v1"]},
        {"max_pixels": 0},
        {"timeout_s": 0},
        {"prices": (1.0,)},
        {"max_cost": 1.0},
        {"concurrency": 0},
        {"caption_prompts": {"tiny": "x"}},
        {"caption_prompts": {"short": " "}},
    ],
)
def test_invalid_arguments_are_value_errors(wrong):
    with pytest.raises(ValueError, match="give|leave out") as refusal:
        OpenAIServer(**{"base_url": "http://localhost", **wrong})
    assert "secret" not in str(refusal.value)
