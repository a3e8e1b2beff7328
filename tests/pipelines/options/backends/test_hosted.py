"""Options for hosted APIs, with a local server in place of the APIs."""

from __future__ import annotations

import argparse
import base64
import bz2
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hosted.faults import Fault, answer, reset
from support.hosted.pictures import numbered

from moondream_beam.pipelines.cli import build_parser
from moondream_beam.pipelines.commands import annotate

COMMAND = Path(sys.executable).with_name("moondream-beam")


def draw(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        numbered(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw(tmp_path / "photos", 20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def rows(out: Path, kind: str = "data") -> list[dict[str, Any]]:
    return pa.concat_tables(pq.read_table(path) for path in sorted((out / kind).glob("*.parquet"))).to_pylist()


def record(out: Path) -> dict[str, Any]:
    return json.loads(max((out / "runs").glob("*.json")).read_text())


def test_fal_answers_and_the_cost_is_in_rows_and_record(api, photos, out, command):
    status, stdout, stderr = command(
        "annotate", photos, "--backend", "fal", "--price", "0.002", "--query", "What?", "--output", out
    )
    assert status == 0 and "20 requests = 20 in data/ + 0 in errors/: balances" in stdout
    assert "bill     $0.0100" in stdout and "fal answers, gets the pictures, and costs money" in stderr
    assert {row["filename"]: row["caption"] for row in rows(out)} == {f"{n}.png": f"What? | {n}" for n in range(20)}
    assert {(row["backend"], row["model"]) for row in rows(out)} == {("fal/vikhyatk/moondream2", "vikhyatk/moondream2")}
    assert sum(row["hosted"]["usd"] for row in rows(out)) == pytest.approx(0.01)
    totals = record(out)["totals"]
    assert totals["billed_units"] == pytest.approx(5.0) and totals["usd"] == pytest.approx(0.01)
    assert not (out / "_paid").exists()


@pytest.mark.parametrize("backend", ["cloud", "cloud-batch"])
def test_moondream_cloud_answers_every_task(api, photos, out, command, backend, monkeypatch):
    monkeypatch.setattr("moondream_beam.models.hosted.cloud.batch.FIRST_POLL_S", 0.01)
    tasks = ("--caption", "short", "--query", "Why?", "--detect", "dog", "--point", "dog")
    status, stdout, _ = command("annotate", photos, "--backend", backend, *tasks, "--output", out)
    assert status == 0 and "80 requests = 80 in data/" in stdout and "bill     $0.0" in stdout
    assert {row["backend"] for row in rows(out)} == {f"{backend}/moondream3.1-9B-A2B"}
    assert {row["caption"] for row in rows(out) if row["task"] == "caption"} == {f"short | {n}" for n in range(20)}
    assert {len(row["objects"]) for row in rows(out) if row["task"] == "detect"} == {0, 1, 2}


def test_without_an_accelerator_the_fallback_answers_what_it_can_and_the_engine_the_rest(api, photos, out, command):
    words = ("--model", "tiny", "--fallback", "fal", "--query", "What?", "--detect", "circle", "--limit", "3")
    status, stdout, stderr = command("annotate", photos, *words, "--output", out)
    assert status == 0 and "6 requests = 6 in data/" in stdout
    assert "there is no accelerator: fal answers instead of tiny, and is paid for" in stderr
    assert {(row["task"], row["backend"].split("/")[0], row["model"]) for row in rows(out)} == {
        ("query", "fal", "vikhyatk/moondream2"),
        ("detect", "local", "tiny"),
    }


def test_the_fallback_costs_nothing_while_the_engine_answers(api, photos, out, command):
    words = ("--model", "tiny", "--device", "cpu", "--fallback", "cloud", "--caption", "short", "--limit", "2")
    status, stdout, _ = command("annotate", photos, *words, "--output", out)
    assert status == 0 and "bill" not in stdout and not api.calls
    assert {row["hosted"] for row in rows(out)} == {None}


def test_without_an_api_named_no_api_is_called(api, photos, out, command):
    command("annotate", photos, "--model", "tiny", "--caption", "short", "--limit", "1", "--output", out)
    assert not api.calls


def test_the_budget_holds_and_requests_beyond_it_are_retryable(api, photos, out, command):
    words = ("--backend", "fal", "--price", "1", "--max-cost", "2", "--query", "What?", "--output", out)
    status, stdout, _ = command("annotate", photos, *words)
    assert status == 1 and "8 in data/ + 12 in errors/" in stdout and "bill     $2.00" in stdout
    assert api.fal.units == 2.0
    assert {(row["error"], row["retryable"]) for row in rows(out, "errors")} == {("BudgetSpent", True)}


def test_a_lost_answer_is_asked_again_only_with_retry_errors(api, photos, out, command):
    api.faults.append(Fault("submit", reset, before=False, times=1))
    words = ("--backend", "fal", "--query", "What?", "--max-failure-rate", "1", "--output", out)
    assert "4 in data/ + 16 in errors/" in command("annotate", photos, *words)[1]
    assert "ledger   0 requests" in command("annotate", photos, *words)[1] and len(api.fal.jobs) == 2
    assert "16 requests = 16 in data/" in command("annotate", photos, *words, "--retry-errors")[1]
    assert len(api.fal.jobs) == 3 and not (out / "_paid").exists()


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_refused_account_is_one_line(api, photos, out, command, workers):
    api.faults.append(Fault("submit", answer(403, {"detail": "User is locked.\nTop up."}), times=10**9))
    words = ("--backend", "fal", "--query", "What?", "--workers", workers, "--output", out)
    status, stdout, stderr = command("annotate", photos, *words)
    assert status == 1 and not stdout
    # A slow machine has lines of progress.
    (line,) = (text for text in stderr.splitlines()[1:] if " requests, " not in text)
    assert line.startswith("moondream-beam annotate: stopped: fal answered 403: User is locked. Top up.; paid answers")
    assert "run the same command again" in line


@pytest.mark.parametrize(
    "words, cure",
    [
        (("--backend", "fal", "--max-cost", "1"), "max cost 1.0: give the price of a billable unit (--price)"),
        (("--backend", "fal", "--price", "cheap"), "--price cheap: give the dollars of a billable unit"),
        (("--backend", "cloud", "--price", "1"), "--price 1: give the dollars of a million tokens in and out"),
        (("--backend", "fal", "--model", "gpt"), "model gpt: fal has vikhyatk/moondream2 and fal-ai/moondream2-docci"),
        (("--backend", "fal", "--detect", "dog"), "can't be asked to detect"),
        (("--backend", "fal", "--fallback", "cloud"), "--fallback cloud needs --backend local"),
        (("--model", "tiny", "--max-cost", "1"), "--max-cost is for a hosted API: name one with --backend"),
        (("--model", "tiny", "--send-urls"), "--send-urls is for a hosted API: name one with --backend"),
        (
            ("--backend", "fal", "--runner", "FlinkRunner", "--price", "1", "--max-cost", "1"),
            "--max-cost needs --runner local, because the workers of --runner FlinkRunner",
        ),
        (("--backend", "cloud-batch", "--send-urls"), "a batch holds pictures"),
        (
            ("--backend", "fal", "--send-urls", "--colour-profiles", "srgb"),
            "--send-urls: an API that fetches pictures by URL ignores --colour-profiles srgb: leave out one of the two",
        ),
    ],
)
def test_bad_options_are_one_line_of_error_before_any_call(api, photos, out, command, words, cure):
    status, stdout, stderr = command("annotate", photos, "--output", out, *words)
    assert status == 2 and not stdout and cure in stderr and stderr.count("\n") == 1
    assert not api.calls and not out.exists()


@pytest.mark.parametrize("words", [("--backend", "fal"), ("--model", "tiny", "--fallback", "fal")])
def test_a_missing_key_is_one_line_before_any_work(api, photos, out, command, words, monkeypatch):
    monkeypatch.delenv("FAL_KEY")
    status, _, stderr = command("annotate", photos, *words, "--output", out)
    assert status == 2 and not out.exists()
    assert stderr == (
        "moondream-beam annotate: fal: no FAL_KEY in the environment; get a key at https://fal.ai/dashboard/keys\n"
    )


WITHOUT_EXTRAS = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] not in ("fal_client", "httpx", "moondream"):
            return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from moondream_beam.pipelines.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, status, line",
    [
        (
            ("--backend", "fal"),
            2,
            "fal needs the module fal_client, which is not installed: pip install 'moondream-beam[fal]'",
        ),
        (("--model", "tiny"), 0, None),
    ],
)
def test_without_the_extras_the_package_works_and_names_the_missing_one(api, photos, out, words, status, line):
    script = [sys.executable, "-c", WITHOUT_EXTRAS, "annotate", photos, "--limit", "1", "--output", out, *words]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    if line:
        assert done.stderr == f"moondream-beam annotate: {line}\n"


def unpacked(pipeline: beam.Pipeline) -> bytes:
    """Return the serialized pipeline as Beam sends it to workers, with the parts that Beam compressed unpacked."""
    sent = pipeline.to_runner_api().SerializeToString()
    parts = [sent]
    for text in re.findall(rb"[A-Za-z0-9+/=]{40,}", sent):
        for expand in (bz2.decompress, zlib.decompress):
            # Bytes around a base64 text may look like a part of it, so try each of the four offsets.
            for start in range(4):
                with contextlib.suppress(ValueError, OSError, zlib.error):
                    parts.append(expand(base64.b64decode(text[start : start + (len(text) - start) // 4 * 4])))
    return b"".join(parts)


@pytest.mark.parametrize("fallback", ["fal", "cloud"])
def test_the_pipeline_holds_no_key(api, photos, out, fallback):
    words = [
        "annotate",
        str(photos),
        "--model",
        "tiny",
        "--fallback",
        fallback,
        "--output",
        str(out),
        "--query",
        "Why?",
    ]
    args, _ = build_parser().parse_known_args(words)
    pipeline = beam.Pipeline()
    annotate.build(pipeline, argparse.Namespace(**vars(args)), "run")
    sent = unpacked(pipeline)
    assert f"moondream_beam.models.hosted.{fallback}".encode() in sent, "the annotator is in there"
    assert not [part for part in (*api.fal.key.split(":"), api.cloud.key) if part.encode() in sent]


def everything(out: Path) -> Iterator[str]:
    for path in out.rglob("*"):
        if path.suffix == ".parquet":
            yield repr(pq.read_table(path).to_pylist())
        elif path.is_file():
            yield path.read_text()


def test_the_key_is_in_no_row_log_error_or_record(api, photos, out, command, caplog):
    # The server repeats the key in every response.
    echo = f"I don't like {api.fal.key}"
    fault = {"type": "bad", "loc": ["body", "inputs", 1, "image_url"], "msg": echo}
    api.faults += [
        Fault("submit", answer(500, {"detail": echo}), times=2),
        Fault("status", answer(500, {"detail": echo}), times=2),
        Fault("result", answer(422, {"detail": [fault]}), times=1),
    ]
    caplog.set_level(logging.DEBUG)
    words = ("--backend", "fal", "--query", "What?", "--webhook", "https://example.org/?word=sesame", "--output", out)
    status, stdout, stderr = command("annotate", photos, *words)
    assert status == 1 and "19 in data/ + 1 in errors/" in stdout
    (row,) = rows(out, "errors")
    assert row["message"] == "bad: I don't like ***; correct the picture, or use another backend"
    kept = "".join(everything(out))
    assert "sesame" not in kept and api.fal.webhooks
    assert "fal-test" not in stdout + stderr + caplog.text + kept
    api.faults.append(Fault("submit", answer(401, {"detail": echo}), times=1))
    _, stdout, stderr = command("annotate", draw(out.parent / "more", 1), *words)
    assert "I don't like ***" in stderr and "fal-test" not in stdout + stderr + caplog.text


@pytest.mark.parametrize("backend, operation, refusals", [("cloud", "query", 1), ("cloud-batch", "mpu-complete", 3)])
def test_the_key_of_moondream_cloud_is_in_no_row_log_error_or_record(
    api, photos, out, command, caplog, monkeypatch, backend, operation, refusals
):
    monkeypatch.setattr("moondream_beam.models.hosted.cloud.batch.FIRST_POLL_S", 0.01)
    # The server repeats the key in every response.
    echo = {"error": {"message": f"I don't like {api.cloud.key}", "type": "bad"}}
    api.faults += [
        Fault(operation, answer(500, echo), times=1),
        # The batch of two is refused, and then each of its halves.
        Fault(operation, answer(400, echo), times=refusals),
    ]
    caplog.set_level(logging.DEBUG)
    words = ("--backend", backend, "--query", "What?", "--limit", "2", "--output", out)
    status, stdout, stderr = command("annotate", photos, *words)
    assert status == 1 and "balances" in stdout
    assert {"I don't like ***" in row["message"] for row in rows(out, "errors")} == {True}
    assert api.cloud.key not in stdout + stderr + caplog.text + "".join(everything(out))
    api.faults.append(Fault(operation, answer(401, echo), times=10**9))
    _, stdout, stderr = command("annotate", draw(out.parent / "more", 1), *words)
    assert "I don't like ***" in stderr and api.cloud.key not in stdout + stderr + caplog.text


@pytest.mark.slow
def test_processes_share_the_budget(api, photos, out, command):
    words = ("--backend", "fal", "--price", "1", "--max-cost", "3", "--query", "What?", "--batch-size", "2")
    status, stdout, _ = command("annotate", photos, *words, "--workers", "2", "--output", out)
    assert status == 1 and "20 requests" in stdout and "balances" in stdout
    # A picture costs a quarter of a unit. A process with few pictures may not use all of its share.
    assert 1.5 <= api.fal.units <= 3.0 and max(api.fal.asked.values()) == 1
    assert sum(row["hosted"]["usd"] for row in rows(out)) == pytest.approx(api.fal.units)


@pytest.mark.slow
def test_a_run_that_is_killed_twice_pays_for_each_picture_once(api, tmp_path, out):
    photos = draw(tmp_path / "photos", 200)
    api.fal.polls_to_end = 6
    words = [COMMAND, "annotate", photos, "--backend", "fal", "--query", "What?", "--output", out]
    words += ["--batch-size", "8", "--shard-size", "70"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(list(map(str, words)), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    for jobs in (3, 14):
        with start() as process:
            deadline = time.monotonic() + 60
            while len(api.fal.jobs) < jobs and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, process.stdout.read()
            os.kill(process.pid, signal.SIGKILL)
    with start() as process:
        stdout, _ = process.communicate(timeout=120)
    assert max(api.fal.asked.values()) == 1, "a picture was paid for twice"
    answered = {row["filename"]: row["caption"] for row in rows(out)}
    lost = {row["filename"]: row["error"] for row in rows(out, "errors")}
    assert set(lost.values()) <= {"LostAnswer"} and len(lost) <= 2 * 8, "only what was being sent at that moment"
    assert answered | lost == {f"{n}.png": lost.get(f"{n}.png", f"What? | {n}") for n in range(200)}
    assert "balances" in stdout
    assert not (out / "_paid").exists()
