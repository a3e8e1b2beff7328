"""Options for vision servers, with a local server in one of their dialects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hosted.faults import Fault, answer
from support.hosted.pictures import save_numbered
from support.servers.chat.server import chat_server


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_numbered(tmp_path / "photos", 12)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rows(out: Path, kind: str = "data") -> list[dict[str, Any]]:
    return pa.concat_tables(pq.read_table(path) for path in sorted((out / kind).glob("*.parquet"))).to_pylist()


def test_a_server_answers_and_a_second_run_asks_nothing(photos, out, command):
    with chat_server("llama.cpp") as server:
        words = ("--backend", "openai", "--base-url", server.url, "--query", "What?", "--output", out)
        status, stdout, stderr = command("annotate", photos, *words)
        assert status == 0 and "12 requests = 12 in data/ + 0 in errors/: balances" in stdout and "bill" not in stdout
        assert f"{server.url} answers, gets the pictures, and is not billed" in stderr
        asked = server.dialect.asked.total()
        assert "ledger   0 requests" in command("annotate", photos, *words)[1]
        # The second run sends the two probes of its start.
        assert server.dialect.asked.total() == asked + 2
    assert {row["filename"]: row["caption"] for row in rows(out)} == {f"{n}.png": f"What? | {n}" for n in range(12)}
    (kind,) = {(row["backend"], row["model"], row["revision"]) for row in rows(out)}
    assert kind == ("openai/llama.cpp/org/model", "org/model", "qwen.gguf of 1234 bytes")
    assert {row["hosted"] for row in rows(out)} == {None}
    assert {row["finish_reason"] for row in rows(out)} == {"stop"}
    assert all(row["input_tokens"] > 0 and row["timings"]["generate_ms"] == 7.0 for row in rows(out))


def test_several_servers_share_the_load_with_a_key_and_small_pictures(photos, out, command, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-test-0123456789")
    with chat_server(key="sk-test-0123456789") as one, chat_server(key="sk-test-0123456789") as two:
        urls = [word for server in (one, two) for word in ("--base-url", server.url)]
        words = (*urls, "--base-url", "http://127.0.0.1:9", "--api-key-env", "MY_KEY", "--max-pixels", "1000")
        status, _, stderr = command(
            "annotate", photos, "--backend", "openai", *words, "--query", "What?", "--output", out
        )
        assert status == 0 and "http://127.0.0.1:9/v1 can't be reached" in stderr and "sk-test" not in stderr
        asked = [{number for text, number in server.dialect.asked if text == "What?"} for server in (one, two)]
    assert asked[0] and asked[1] and asked[0] | asked[1] == set(range(12))
    assert {row["filename"]: row["caption"] for row in rows(out)} == {f"{n}.png": f"What? | {n}" for n in range(12)}
    assert {row["revision"] for row in rows(out)} == {"/weights/v3; max_pixels 1000"}


def test_prices_make_a_bill(photos, out, command):
    with chat_server() as server:
        words = ("--backend", "openai", "--base-url", server.url, "--price", "100/200", "--query", "What?")
        status, stdout, stderr = command("annotate", photos, *words, "--output", out)
    assert status == 0 and "bill     $0.0" in stdout and "costs money" in stderr
    assert all(row["hosted"]["usd"] > 0 and not row["hosted"]["estimated"] for row in rows(out))
    assert not (out / "_paid").exists()


def test_the_fallback_answers_captions_and_the_engine_boxes(photos, out, command):
    with chat_server() as server:
        words = ("--model", "tiny", "--fallback", "openai", "--base-url", server.url, "--limit", "3")
        tasks = ("--caption", "short", "--caption-prompt", "short=Say what.", "--detect", "circle")
        status, _, stderr = command("annotate", photos, *words, *tasks, "--output", out)
    assert status == 0 and "the vision server answers instead of tiny" in stderr and "paid" not in stderr
    assert {(row["task"], row["backend"], row["model"]) for row in rows(out)} == {
        ("caption", "openai/vllm/org/model", "org/model"),
        ("detect", "local/cpu/float32", "tiny"),
    }
    assert {row["caption"] for row in rows(out) if row["task"] == "caption"} <= {f"Say what. | {n}" for n in range(12)}


def test_estimate_names_the_server(photos, command):
    with chat_server() as server:
        words = ("--backend", "openai", "--base-url", server.url, "--price", "100/200", "--query", "What?")
        status, stdout, _ = command("estimate", photos, *words)
    assert status == 0 and "openai/vllm/org/model" in stdout and "here" not in stdout


URL = ("--base-url", "http://127.0.0.1:9")
OPENAI = ("--backend", "openai")


@pytest.mark.parametrize(
    "words, cure",
    [
        (OPENAI, "--backend openai needs the URL of a server: add --base-url"),
        (("--fallback", "openai"), "--fallback openai needs the URL of a server: add --base-url"),
        ((*OPENAI, *URL), "http://127.0.0.1:9/v1 can't be reached"),
        (URL, "--base-url is for a vision server: add --backend openai"),
        (
            ("--backend", "cloud", "--max-pixels", "9"),
            "--max-pixels is for other models: add --backend openai, or transformers",
        ),
        ((*OPENAI, *URL, "--send-urls"), "--send-urls is not for --backend openai"),
        ((*OPENAI, *URL, "--max-cost", "1"), "give the prices of a million tokens (--price IN/OUT)"),
        ((*OPENAI, *URL, "--price", "1"), "--price 1: give the dollars of a million tokens in and out"),
        ((*OPENAI, *URL, "--api-key-env", "NO_SUCH_KEY"), "no NO_SUCH_KEY in the environment"),
        ((*OPENAI, *URL, "--caption-prompt", "tiny=x"), "give LENGTH=TEXT"),
        ((*OPENAI, *URL, "--max-pixels", "0"), "max pixels 0: give 1 or more"),
        ((*OPENAI, *URL, "--request-timeout", "0"), "time limit 0.0: give more than 0 seconds"),
    ],
)
def test_bad_options_are_one_line_with_the_cure(photos, out, command, words, cure):
    status, stdout, stderr = command("annotate", photos, *words, "--query", "What?", "--output", out)
    (line,) = stderr.splitlines()
    assert (status, stdout) == (2, "") and cure in line and not out.exists()


@pytest.mark.parametrize(
    "kind, words, cure",
    [
        ("vllm", ("--detect", "dog"), "can't be asked to detect, only for caption, query"),
        ("vllm", ("--point", "dog"), "can't be asked to point, only for caption, query"),
        ("vllm", ("--query", "Why?", "--reasoning"), "does not reason"),
        ("ollama", ("--query", "Why?", "--repetition-penalty", "1.3"), "kind ollama, which has no such option"),
        ("vllm", ("--query", "Why?", "--model", "mine", "--revision", "1"), "The model `mine` does not exist"),
    ],
)
def test_what_the_server_cannot_do_is_refused_before_the_run(photos, out, command, kind, words, cure):
    with chat_server(kind) as server:
        url = ("--backend", "openai", "--base-url", server.url)
        status, stdout, stderr = command("annotate", photos, *url, *words, "--output", out)
    assert (status, stdout) == (2, "") and cure in stderr.splitlines()[-1] and not out.exists()


def test_a_server_without_vision_is_refused_before_the_run(photos, out, command):
    with chat_server(rejects="this is not a multimodal model") as server:
        words = ("--backend", "openai", "--base-url", server.url, "--query", "What?", "--output", out)
        status, _, stderr = command("annotate", photos, *words)
    assert status == 2 and "not a multimodal model" in stderr


def test_a_key_that_is_refused_in_the_middle_is_one_line(photos, out, command):
    with chat_server() as server:
        refusal = answer(401, {"error": {"message": "no such key"}})
        server.faults.append(Fault("chat", refusal, times=99, where=lambda call: b"What?" in call.body))
        words = ("--backend", "openai", "--base-url", server.url, "--query", "What?", "--output", out)
        status, _, stderr = command("annotate", photos, *words)
    assert status == 1 and "stopped: the server at" in stderr.splitlines()[-1] and "no such key" in stderr
