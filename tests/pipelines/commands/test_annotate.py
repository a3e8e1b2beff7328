"""``moondream-beam annotate``, from arguments to rows on disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.photographs import take_photographs

from moondream_beam import Annotate, Caption, Detect, Moondream, Query, ReadImages
from moondream_beam.pipelines.local_runner.runner import local_runner


def rows(output: Path, kind: str = "data") -> list[dict[str, Any]]:
    """Return all rows in ``data`` or ``errors``, sorted by id."""
    tables = [pq.read_table(path) for path in sorted((output / kind).glob("*.parquet"))]
    return pa.concat_tables(tables).sort_by("id").to_pylist()


def record(output: Path) -> dict[str, Any]:
    """Return the record of the latest run."""
    return json.loads(max((output / "runs").glob("*.json")).read_text())


def test_a_folder_gives_one_row_for_each_picture_and_task(pictures, tmp_path, command):
    out = tmp_path / "out"
    status, stdout, _ = command(
        "annotate", pictures, "--model", "tiny", "--output", out, "--caption", "--query", "How many shapes are there?"
    )
    assert status == 1, "one picture is broken, and no failure is allowed"
    assert "10 requests = 8 in data/ + 2 in errors/: balances" in stdout
    good = {"a.png", "b.jpg", "c.webp", "more/d.bmp"}
    assert {(row["filename"], row["task"]) for row in rows(out)} == {(n, t) for n in good for t in ("caption", "query")}
    assert {(row["filename"], row["stage"]) for row in rows(out, "errors")} == {("broken.jpg", "decode")}
    assert "HTML" in rows(out, "errors")[0]["message"]


def test_a_readme_in_the_output_folder_is_kept_and_the_run_says_how_to_load(pictures, tmp_path, command, monkeypatch):
    """The rows load through the line that the run prints, also after a second run."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# My pictures\n")
    for tasks, rows in ((("--caption", "short"), 4), (("--caption", "short", "--point", "circle"), 8)):
        words = ("annotate", pictures, "--model", "tiny", "--output", tmp_path / "set", *tasks, "--no-report")
        _, stdout, _ = command(*words)
        (line,) = [line for line in stdout.splitlines() if line.startswith("card ")]
        loaded = eval(re.search(r"load_dataset\(.*\)", line)[0], {"load_dataset": datasets.load_dataset})
        assert len(loaded["train"]) == rows
    assert (tmp_path / "set" / "README.md").read_text() == "---\nlicense: cc-by-4.0\n---\n# My pictures\n"


@pytest.mark.slow
def test_datasets_in_its_default_cache_gives_the_rows_of_each_output_named_out(pictures, tmp_path, command):
    """As two users' projects: each has an output named `out`, one of them grows, and both share a home."""

    def loaded(project: str) -> str:
        script = "import datasets; print(sorted(datasets.load_dataset('out')['train']['filename']))"
        home = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
        home.pop("HF_DATASETS_CACHE", None)
        folder = tmp_path / project
        return subprocess.run(
            [sys.executable, "-c", script], env=home, cwd=folder, stdout=subprocess.PIPE
        ).stdout.decode()

    def annotate(project: str, name: str) -> None:
        (tmp_path / project / "img").mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / name, tmp_path / project / "img")
        words = ("annotate", tmp_path / project / "img", "--output", tmp_path / project / "out", "--model", "tiny")
        assert command(*words, "--caption", "short", "--no-report")[0] == 0

    annotate("a", "a.png")
    annotate("b", "b.jpg")
    assert [loaded("a"), loaded("b")] == ["['a.png']\n", "['b.jpg']\n"]
    annotate("a", "c.webp")
    assert [loaded("a"), loaded("b")] == ["['a.png', 'c.webp']\n", "['b.jpg']\n"]


def test_failures_within_the_allowed_rate_are_success(pictures, tmp_path, command):
    words = ("annotate", pictures, "--model", "tiny", "--output", tmp_path / "out", "--caption", "short")
    assert command(*words, "--max-failure-rate", "0.2")[0] == 0


def test_on_a_terminal_a_run_ends_with_a_few_answers_and_what_to_type_next(pictures, tmp_path, command, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = tmp_path / "out"
    _, stdout, stderr = command("annotate", pictures, "--model", "tiny", "--caption", "--output", out)
    lines = stdout.splitlines()
    table = lines[lines.index("") + 1 :]
    assert [line.split()[0] for line in table[:5]] == ["filename", "a.png", "b.jpg", "c.webp", "more/d.bmp"]
    assert f"open {out}/report.html" in table[6] and f"moondream-beam export {out}" in table[8]
    assert "flat coloured shapes only" in stderr


def test_the_same_command_again_does_nothing(pictures, tmp_path, command):
    out = tmp_path / "out"
    words = ("annotate", pictures, "--model", "tiny", "--output", out, "--detect", "circle")
    first = command(*words)[1]
    before = rows(out)
    status, stdout, _ = command(*words)
    assert status == 1, "the error of the first run still stands in errors/"
    assert "1 in errors/ and 4 in data/ in all, more than" in first
    assert "1 in errors/ and 4 in data/ in all, 1 of the errors from earlier runs, more than" in stdout
    reasons = [line for line in first.splitlines() if line.startswith(("         1 x", "action"))]
    assert len(reasons) == 2 and "such as broken.jpg" in reasons[0] and "\n".join(reasons) in stdout
    assert "ledger   0 requests = 0 in data/ + 0 in errors/" in stdout
    assert "5 more requests had their rows from earlier runs" in stdout
    assert rows(out) == before


def test_a_new_task_does_only_what_is_missing(pictures, tmp_path, command):
    out = tmp_path / "out"
    words = ("annotate", pictures, "--model", "tiny", "--output", out, "--caption", "short")
    command(*words)
    _, stdout, _ = command(*words, "--point", "square")
    assert "ledger   5 requests = 4 in data/ + 1 in errors/" in stdout
    assert [row["task"] for row in rows(out)].count("caption") == 4


def test_without_a_task_the_default_prompt_is_asked(pictures, tmp_path, command):
    out = tmp_path / "out"
    command("annotate", pictures / "a.png", "--model", "tiny", "--output", out)
    assert [(row["task"], row["prompt"]) for row in rows(out)] == [("query", "Describe this image.")]


def test_a_limit_takes_the_same_pictures_each_time(pictures, tmp_path, command):
    for out in (tmp_path / "one", tmp_path / "two"):
        command("annotate", pictures, "--model", "tiny", "--output", out, "--caption", "short", "--limit", "2")
    chosen = [
        {row["filename"] for kind in ("data", "errors") for row in rows(tmp_path / n, kind)} for n in ("one", "two")
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 2


def test_a_limit_is_spread_over_the_slices(pictures, tmp_path, command):
    for copy in range(40):
        (pictures / f"copy-{copy}.png").hardlink_to(pictures / "a.png")
    words = ("--model", "tiny", "--caption", "short", "--limit", "20", "--output", tmp_path / "out", "--no-report")
    parts = []
    for number in (0, 1):
        command("annotate", pictures, *words, "--slice", f"{number}/2")
        parts.append(sum(len(rows(tmp_path / "out", kind)) for kind in ("data", "errors")))
    assert 0 < parts[0] < parts[1] == 20


def test_what_a_folder_holds_besides_is_told_recorded_and_makes_no_row(pictures, tmp_path, command):
    for name in ("a.txt", "more/b.txt", "more/c.json"):
        (pictures / name).touch()
    out = tmp_path / "out"
    words = ("annotate", pictures, "--model", "tiny", "--caption", "short", "--output")
    line = "input    5 pictures; 3 other files: 2 .txt, 1 .json (such as a.txt)"
    assert line in command(*words, out)[1]
    assert record(out)["skipped"]["files ending in .txt"] == {"count": 2, "example": "a.txt"}
    assert sum(len(rows(out, kind)) for kind in ("data", "errors")) == 5
    # The first number stays that of the input.
    limited = command(*words, tmp_path / "limited", "--limit", "2")[1]
    assert line in limited and "3 x pictures or rows of manifests beyond --limit 2 (such as " in limited
    assert "ledger   2 requests" in limited


def test_a_run_without_a_folder_that_could_not_be_listed_fails_each_time(pictures, tmp_path, command, monkeypatch):
    (pictures / "broken.jpg").unlink()
    monkeypatch.chdir(pictures)
    for _ in range(25):
        # In the end the path of the folder is longer than the system takes.
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    words = ("annotate", pictures, "--model", "tiny", "--caption", "short", "--output", tmp_path / "out", "--no-report")
    for requests in (4, 0):
        status, stdout, _ = command(*words)
        assert status == 1 and f"ledger   {requests} requests = {requests} in data/" in stdout
        assert "1 x folders that could not be listed (File name too long)" in stdout and "NOT COMPLETE" in stdout
    monkeypatch.chdir(pictures)
    shutil.rmtree("x" * 200)
    assert command(*words)[0] == 0


def test_slices_together_count_each_thing_that_is_left_out_once(pictures, tmp_path, command):
    for number in range(20):
        (pictures / f"{number}.x{number}").touch()
    words = ("annotate", pictures, "--model", "tiny", "--caption", "short", "--output", tmp_path / "out", "--no-report")
    parts = []
    for number in (0, 1):
        command(*words, "--slice", f"{number}/2")
        parts.append(set(record(tmp_path / "out")["skipped"]))
    assert parts[0] and parts[1] and not parts[0] & parts[1]
    assert parts[0] | parts[1] == {f"files ending in .x{number}" for number in range(20)}


def test_a_run_leaves_its_record_and_no_temporary_file(pictures, tmp_path, command):
    out = tmp_path / "out"
    command("annotate", pictures, "--model", "tiny", "--output", out, "--caption", "--temperature", "0")
    kept = record(out)
    assert kept["model"] == "tiny" and kept["revision"] and kept["balanced"]
    asked = {"pictures": 5, "pending": 5, "done": 0, "retried": 0, "annotations": 4, "failures": 1}
    assert kept["counts"] == {**asked, "inputs": 5}
    assert kept["options"]["temperature"] == 0 and kept["sampling"]["temperature"] == 0
    assert kept["totals"]["output_tokens"] == sum(row["output_tokens"] for row in rows(out))
    assert [path for path in out.rglob("*") if "_temporary" in path.parts and path.is_file()] == []


def test_a_runner_of_beam_leaves_no_temporary_file_either(pictures, tmp_path, command):
    out = tmp_path / "out"
    words = ("annotate", pictures / "a.png", "--model", "tiny", "--output", out, "--caption", "short")
    assert command(*words, "--runner", "FnApiRunner")[0] == 0
    assert len(rows(out)) == 1
    assert not (out / "_temporary").exists()


def test_a_folder_whose_name_is_not_utf8_is_annotated_reported_and_recorded(pictures, tmp_path, command):
    odd = pictures.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    out = tmp_path / "out"
    words = ("annotate", odd, "--model", "tiny", "--output", out, "--caption", "short", "--max-failure-rate", "0.5")
    status, _, stderr = command(*words)
    assert status == 0 and "Traceback" not in stderr
    assert len(rows(out)) == 4 and (out / "report.html").exists()


def test_values_of_beam_options_are_not_recorded(pictures, tmp_path, command):
    out = tmp_path / "out"
    words = ("annotate", pictures / "a.png", "--model", "tiny", "--output", out, "--caption", "short")
    status, stdout, stderr = command(*words, "--s3_secret_access_key", "hunter2")
    assert status == 0
    assert "hunter2" not in stdout + stderr + "".join(path.read_text() for path in (out / "runs").iterdir())


@pytest.mark.slow
def test_real_photographs_of_every_kind_end_with_one_row_each(tmp_path, command):
    sizes = take_photographs(tmp_path / "photos")
    out = tmp_path / "out"
    words = ("annotate", f"{tmp_path}/photos/*", "--model", "tiny", "--output", out, "--caption", "--max-tokens", "8")
    status, stdout, _ = command(*words)
    assert status == 0 and f"{len(sizes)} requests = {len(sizes)} in data/ + 0 in errors/: balances" in stdout
    assert {row["filename"]: (row["width"], row["height"]) for row in rows(out)} == sizes
    assert len(rows(out)) == len(sizes)


@pytest.mark.slow
def test_one_process_two_processes_and_a_pipeline_in_python_give_the_same_rows(pictures, tmp_path, command):
    tasks = ("--caption", "--query", "What colour is the background?", "--detect", "shape")
    for out, workers in ((tmp_path / "one", "1"), (tmp_path / "two", "2")):
        words = ("annotate", pictures, "--model", "tiny", "--output", out, *tasks, "--workers", workers)
        assert command(*words, "--max-failure-rate", "1")[0] == 0

    def comparable(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["id"], row["caption"], [tuple(box.values()) for box in row["objects"] or ()]

    alone, together = ([comparable(row) for row in rows(tmp_path / name)] for name in ("one", "two"))
    assert len(alone) == 12 and together == alone
    assert [row["id"] for row in rows(tmp_path / "one", "errors")] == [
        row["id"] for row in rows(tmp_path / "two", "errors")
    ]

    seen = tmp_path / "own.txt"
    asked = [Caption(), Query("What colour is the background?"), Detect("shape")]
    with beam.Pipeline(local_runner(beam.options.pipeline_options.PipelineOptions([]), 1)) as pipeline:
        annotations, _ = pipeline | ReadImages(str(pictures)) | Annotate(asked, Moondream("tiny"))
        _ = (
            annotations
            | beam.Map(lambda row: json.dumps([row.id, row.caption, row.objects or []]))
            | beam.io.WriteToText(str(seen), shard_name_template="")
        )
    own = sorted(json.loads(line) for line in seen.read_text().splitlines())
    assert [(name, caption) for name, caption, _ in own] == [(name, caption) for name, caption, _ in alone]
    for (_, _, boxes), (_, _, expected) in zip(own, alone, strict=True):
        # Parquet stores 32-bit floats.
        assert [pytest.approx(box, abs=1e-6) for box in expected] == [tuple(box) for box in boxes]
