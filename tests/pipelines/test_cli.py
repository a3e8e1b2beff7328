"""Bad arguments: one line of error, exit status 2, and no work done."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

GOOD = ("annotate", "pictures", "--model", "tiny", "--output", "out")


@pytest.mark.parametrize(
    "words, cure",
    [
        (("annotate", "--model", "tiny", "--output", "out"), "give a file, a folder, a glob, a URL or a --manifest"),
        (
            ("annotate", "nowhere/*.jpg", "--model", "tiny", "--output", "out"),
            "input nowhere/*.jpg: there is no folder",
        ),
        (("annotate", "pictures", "--model", "tiny"), "--output"),
        (("annotate", "pictures", "--model", "no/such/folder", "--output", "out"), "no such folder"),
        (("annotate", "pictures", "--model", "pictures", "--output", "out"), "there is no config.json"),
        ((*GOOD, "--revision", "2025-01-09"), "omit --revision"),
        (("annotate", "pictures", "--model", "gs://b/weights", "--output", "out"), "needs moondream-beam[gcp]"),
        ((*GOOD, "--cation"), "unknown option --cation"),
        ((*GOOD, "--caption", "tall"), "choose short, normal or long"),
        ((*GOOD, "--query", " "), "the prompt is empty"),
        ((*GOOD, "--caption", "--reasoning"), "none of the tasks is a query; add --query TEXT"),
        ((*GOOD, "--query", "Why?", "--reasoning"), "tiny does not reason: ask without reasoning"),
        ((*GOOD, "--query", "caf\udce9"), "write it in UTF-8"),
        ((*GOOD, "--output", "caf\udce9"), "choose a name in UTF-8"),
        ((*GOOD, "--prompts", "no\nwhere.txt"), "cannot read no where.txt"),
        ((*GOOD, "--prompts", "nowhere.txt"), "cannot read nowhere.txt"),
        ((*GOOD, "--caption", "--caption"), "given twice"),
        ((*GOOD, "--device", "abacus"), "choose auto, cpu, cuda"),
        ((*GOOD, "--dtype", "int3"), "float32"),
        ((*GOOD, "--batch-size", "0"), "give 1 or more"),
        ((*GOOD, "--temperature", "-1"), "give 0 or more"),
        ((*GOOD, "--top-p", "0"), "give more than 0"),
        ((*GOOD, "--max-tokens", "0"), "give a whole number"),
        ((*GOOD, "--workers", "0"), "give 1 or more"),
        ((*GOOD, "--limit", "0"), "give 1 or more"),
        ((*GOOD, "--shard-size", "0"), "give 1 or more"),
        ((*GOOD, "--max-cost", "nan", "--fallback", "fal"), "give more than 0 dollars"),
        ((*GOOD, "--max-cost", "inf", "--fallback", "fal"), "give more than 0 dollars"),
        ((*GOOD, "--output", "pictures/a.png"), "this is a file; choose a folder"),
        ((*GOOD, "--max-failure-rate", "2"), "a share from 0 to 1"),
        (
            (*GOOD, "--workers", "2", "--runner", "DirectRunner"),
            "--workers 2 needs --runner local: with --runner DirectRunner",
        ),
        (("annotate", "pictures", "--model", "tiny", "--output", "out*"), "which mean a pattern"),
        (("demo", "--cation"), "unknown option --cation"),
        (("annotate", "pictures", "--model", "tiny", "--output", ""), "the argument after --output is empty"),
        (("annotate", "pictures", "--model", "tiny", "--output="), "--output has an empty value"),
        (("annotate", "", "--model", "tiny", "--output", "out"), "the argument after annotate is empty"),
        (("annotate", "pictures/a.png", "--output", "out", "pictures/b.jpg"), "give all INPUTs together"),
        ((*GOOD, "--query", "Is", "it", "red?", "--project", "p"), "unexpected argument it: give all INPUTs together"),
        ((*GOOD, "--", "pictures/b.jpg"), "unexpected argument pictures/b.jpg: give all INPUTs together"),
        (("report", "out", "pictures"), "unexpected argument pictures: leave it out"),
        (("anotate",), "invalid choice"),
        ((), "see moondream-beam --help"),
        ((*GOOD, "--workers", "some"), "see moondream-beam annotate --help"),
        (("annotate", "--model", "tiny", "--output", "out", "--caption", "pictures"), "give INPUTs before --caption"),
        ((*GOOD, "--project"), "expected one argument"),
        ((*GOOD, "--direct_num_workers", "some"), "see moondream-beam annotate --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_bad_argument_is_one_line_of_error_before_any_work(words, cure, pictures, command, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    status, stdout, stderr = command(*words)
    assert status == 2
    (line,) = stderr.splitlines()
    assert cure in line
    assert stdout == ""
    assert {path.name for path in pictures.parent.iterdir()} == {"pictures"}


def test_help_names_every_subcommand(command):
    status, stdout, _ = command("--help")
    assert status == 0
    assert "annotate" in stdout and "demo" in stdout


@pytest.mark.slow
def test_a_warning_of_the_hub_client_is_printed_once(pictures):
    program = """
import logging, sys
from moondream_beam.pipelines.cli import main
main(["status", sys.argv[1]])
from moondream_beam.models.moondream.checkpoints import hub
logging.getLogger("huggingface_hub.utils").warning("retrying")
"""
    done = subprocess.run([sys.executable, "-c", program, pictures], capture_output=True, text=True, timeout=120)
    assert done.stderr.count("retrying") == 1


def test_an_interrupted_run_publishes_what_is_answered_and_can_be_resumed(pictures, tmp_path, command):
    out = tmp_path / "out"
    for copy in range(400):
        (pictures / f"copy-{copy}.png").hardlink_to(pictures / "a.png")
    words = ["annotate", str(pictures), "--model", "tiny", "--output", str(out), "--caption", "--shard-size", "40"]
    running = subprocess.Popen([sys.executable, "-m", "moondream_beam.pipelines.cli", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(out.glob("data/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130, stderr.decode()
    said = re.search(r"interrupted: (\d+) answers.* are in (.*); (\d+) requests are left", stderr.decode())
    assert said and said[2] == str(out) and b"Traceback" not in stderr
    assert not (out / "_temporary").exists()
    assert sum(pq.read_metadata(path).num_rows for path in out.glob("data/*.parquet")) == int(said[1])
    (record,) = [json.loads(path.read_bytes()) for path in out.glob("runs/*.json")]
    assert (record["interrupted"], record["left"], record["balanced"]) == ("SIGINT", int(said[3]), True)
    assert record["counts"]["pending"] == 405 and record["published"]["data"] == int(said[1])
    status, stdout, _ = command(*words, "--max-failure-rate", "0.5")
    assert status == 0 and f"ledger   {said[3]} requests = " in stdout and "had their rows from earlier runs" in stdout
