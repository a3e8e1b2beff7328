"""Pictures through vision servers with faults of all kinds: the ledger balances, and a second run asks nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hosted.pictures import save_numbered
from support.servers.chat.dialects import DIALECTS
from support.servers.chat.mixed_faults import ERRORS, PROBE, mixed_faults
from support.servers.chat.server import chat_server

pytestmark = pytest.mark.slow
COUNT, POISON = 100, {7, 50}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return save_numbered(tmp_path_factory.mktemp("photos"), COUNT)


@pytest.fixture(autouse=True)
def no_key_and_short_waits(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.rate_limiter.INITIAL_BACKOFF_S", 0.02)
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.rate_limiter.MAX_BACKOFF_S", 0.2)
    monkeypatch.setattr("moondream_beam.models.hosted.dispatch.rate_limiter.OPEN_S", 0.2)


def rows(out: Path, kind: str) -> list[dict[str, Any]]:
    paths = sorted((out / kind).glob("*.parquet"))
    return pa.concat_tables(map(pq.read_table, paths)).to_pylist() if paths else []


@pytest.mark.parametrize("kind", DIALECTS)
def test_the_ledger_balances_and_a_second_run_asks_nothing(photos, tmp_path, command, kind):
    out = tmp_path / "out"
    with chat_server(kind, poison=POISON) as server:
        server.faults += mixed_faults()
        words = ("--backend", "openai", "--base-url", server.url, "--query", "What?", "--output", out, "--no-report")
        _, stdout, _ = command("annotate", photos, *words)
        assert f"input    {COUNT} pictures" in stdout and "balances" in stdout
        assert all(fault.hits for fault in server.faults)
        server.faults.clear()
        asked = Counter(server.dialect.asked)
        assert "ledger   0 requests" in command("annotate", photos, *words)[1]
        new = Counter(server.dialect.asked) - asked
        assert all(text.startswith(PROBE.decode()) for text, _ in new)
        answered, failed = rows(out, "data"), rows(out, "errors")
        assert {row["filename"]: row["caption"] for row in answered} == {
            row["filename"]: f"What? | {Path(row['filename']).stem}" for row in answered
        }
        assert sorted(row["filename"] for row in answered + failed) == sorted(f"{n}.png" for n in range(COUNT))
        assert {f"{number}.png" for number in POISON} <= {row["filename"] for row in failed}
        assert {row["error"] for row in failed} <= ERRORS
        assert len(failed) < COUNT / 4

        if kind == "vllm":
            command("annotate", photos, *words, "--retry-errors")
            assert len(rows(out, "data")) == COUNT - len(POISON)
