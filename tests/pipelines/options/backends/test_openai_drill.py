"""Some hundred pictures through vision servers with faults of all kinds: the ledger balances, nothing is mixed up."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hosted.faults import Fault, answer, changed, ends_early, garbled, reset, reset_in_the_middle
from support.hosted.pictures import numbered
from support.servers.openai_dialects import DIALECTS
from support.servers.openai_server import chat_server

pytestmark = pytest.mark.slow
COUNT = 300
PROBE = b"Name the colours"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        numbered(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def no_key_and_short_waits(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.rate_limiter.INITIAL_BACKOFF_S", 0.02)
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.rate_limiter.MAX_BACKOFF_S", 0.2)
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.rate_limiter.OPEN_S", 0.2)


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    paths = sorted((out / kind).glob("*.parquet"))
    return pa.concat_tables(map(pq.read_table, paths)).to_pylist() if paths else []


def emptied(body):
    body["choices"][0]["message"]["content"] = ""
    return body


def aborted(body):
    body["choices"][0]["finish_reason"] = "abort"
    return body


def faults() -> list[Fault]:
    """5 % of each fault, of requests other than probes."""
    unavailable = {"error": {"message": "queue is full"}}
    acts = [
        *(
            (act, True)
            for act in (answer(503, unavailable), answer(500, "Internal Server Error"), answer(429, {}), reset)
        ),
        *((act, False) for act in (reset_in_the_middle, ends_early, garbled(lambda text: text[:9]))),
        *((changed(change), False) for change in (emptied, aborted)),
    ]
    is_row = lambda call: PROBE not in call.body  # noqa: E731
    return [
        Fault("chat", act, share=0.05, before=before, seed=seed, where=is_row)
        for seed, (act, before) in enumerate(acts)
    ]


@pytest.mark.parametrize("kind", DIALECTS)
def test_the_ledger_balances_and_a_second_run_asks_nothing(photos, tmp_path, command, kind):
    out, poison = tmp_path / "out", {7, 250}
    with chat_server(kind, poison=poison) as server:
        server.faults += faults()
        words = ("--backend", "openai", "--base-url", server.url, "--query", "What?", "--output", out)
        _, stdout, _ = command("annotate", photos, *words)
        assert f"input    {COUNT} pictures" in stdout and "balances" in stdout
        assert all(fault.hits for fault in server.faults)
        server.faults.clear()
        asked = Counter(server.dialect.asked)
        assert "ledger   0 requests" in command("annotate", photos, *words)[1]
        new = Counter(server.dialect.asked) - asked
        assert {text for text, _ in new} <= {"Name the colours of this picture."}
        answered, failed = rows(out, "data"), rows(out, "errors")
        assert {row["filename"]: row["caption"] for row in answered} == {
            row["filename"]: f"What? | {Path(row['filename']).stem}" for row in answered
        }
        assert sorted(row["filename"] for row in answered + failed) == sorted(f"{n}.png" for n in range(COUNT))
        assert {f"{number}.png" for number in poison} <= {row["filename"] for row in failed}
        assert {row["error"] for row in failed} <= {"Rejected", "Unavailable", "EmptyAnswer", "BrokenAnswer"}
        assert len(failed) < COUNT / 4

        if kind == "vllm":
            command("annotate", photos, *words, "--retry-errors")
            assert len(rows(out, "data")) == COUNT - len(poison)


def serve(port: int, log: str) -> None:
    """Serve in a process of its own, with an answer each 5 ms, and note each answer in a file."""
    with chat_server("llama.cpp", port=port) as server, open(log, "a", buffering=1) as file:
        inner = server.dialect.say

        def say(text: str, number: int | None, body: dict[str, Any]) -> str:
            time.sleep(0.005)
            file.write(json.dumps([text, number]) + "\n")
            return inner(text, number, body)

        server.dialect.say = say  # type: ignore[method-assign]
        threading.Event().wait()


def test_a_server_that_is_killed_twice_loses_nothing(photos, tmp_path, command):
    out, log = tmp_path / "out", tmp_path / "log"
    log.touch()
    with chat_server() as free:
        port = free.server_port
    context = multiprocessing.get_context("spawn")

    def start() -> Any:
        process = context.Process(target=serve, args=(port, str(log)), daemon=True)
        process.start()
        return process

    server, ended = [start()], threading.Event()

    def kill_twice() -> None:
        for after in (80, 180):
            while len(log.read_text().splitlines()) < after and not ended.is_set():
                time.sleep(0.01)
            server[0].kill()
            server[0].join()
            server[0] = start()

    while not is_up(port):
        time.sleep(0.05)
    killer = threading.Thread(target=kill_twice)
    killer.start()
    try:
        words = ("--backend", "openai", "--base-url", f"http://127.0.0.1:{port}", "--query", "What?", "--output", out)
        status, stdout, stderr = command("annotate", photos, *words)
    finally:
        ended.set()
        killer.join()
        server[0].kill()
        server[0].join()
    assert status == 0 and f"{COUNT} requests = {COUNT} in data/ + 0 in errors/: balances" in stdout
    assert "no other server answers: its requests wait" in stderr and "answers again" in stderr
    assert {row["filename"]: row["caption"] for row in rows(out, "data")} == {
        f"{n}.png": f"What? | {n}" for n in range(COUNT)
    }


def is_up(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
