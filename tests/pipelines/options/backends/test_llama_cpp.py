"""llama.cpp's own server, which is killed and started again while a run asks it: nothing is lost or mixed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hosted.pictures import numbered, save_numbered
from support.servers.chat.processes import llama_cpp_server

from moondream_beam import OpenAIServer, Query
from moondream_beam.models.tasks import Request, Sampling

pytestmark = pytest.mark.slow
COUNT, TOKENS = 100, 48
GREEDY = ("--temperature", "0", "--max-tokens", TOKENS)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return save_numbered(tmp_path_factory.mktemp("photos"), COUNT)


def rows(out: Path) -> list[dict[str, Any]]:
    return pa.concat_tables(map(pq.read_table, sorted((out / "data").glob("*.parquet")))).to_pylist()


def answers_one_by_one(url: str) -> dict[str, str]:
    """Return the answer about each picture, by the name of its file, while no other request is in flight."""
    asked = (Request(f"{n}.png", numbered(n), Query("What?"), Sampling(TOKENS, temperature=0)) for n in range(COUNT))
    return {outcome.id: outcome.result.text for outcome in OpenAIServer(url, concurrency=1).answer(asked)}


def test_a_server_that_is_killed_twice_loses_nothing_and_mixes_up_nothing(photos, tmp_path, command):
    out = tmp_path / "out"
    with llama_cpp_server(tmp_path / "log") as server:
        expected = answers_one_by_one(server.url)
        assert len(set(expected.values())) == COUNT, "each picture must have an answer of its own"
        words = ("annotate", photos, "--backend", "openai", "--base-url", server.url, "--batch-size", "8")
        words += ("--query", "What?", *GREEDY, "--output", out, "--no-report")
        before = server.answers()
        with server.killed_after(before + 30, before + 65):
            status, stdout, stderr = command(*words)
        assert status == 0 and f"{COUNT} requests = {COUNT} in data/ + 0 in errors/: balances" in stdout
        # An answer that was on its way during a kill counts as a sign of life, so there can be more of both lines.
        num_lost = stderr.count("no other server answers: its requests wait")
        assert num_lost == stderr.count("answers again") and num_lost >= 2
        written = rows(out)
        assert {row["filename"]: row["caption"] for row in written} == expected and len(written) == COUNT
        assert {row["backend"] for row in written} == {"openai/llama.cpp/random"}
        assert all(row["timings"]["encode_ms"] > 0 and row["output_tokens"] <= TOKENS for row in written)

        before = server.answers()
        assert "ledger   0 requests" in command(*words)[1]
        # The check of the server at the start of a command sends two probes.
        assert server.answers() == before + 2
