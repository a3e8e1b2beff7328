"""``moondream-beam`` with Moondream 3: from arguments to rows, with reasonings."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.golden import Golden

from moondream_beam.models.tasks import Detect, Query


@pytest.fixture
def folder(tmp_path):
    """Two pictures of the reference."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted((Golden("moondream3").root / "images").iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


def words(golden, folder):
    sampling = ("--temperature", "0", "--max-tokens", golden.expected["settings"]["max_tokens"])
    model = ("--model", golden.folder, "--tokenizer", golden.tokenizer_path, "--device", "cpu", "--dtype", "float32")
    return (folder, *model, *sampling)


def test_rows_have_answers_and_reasonings_of_the_reference(golden3, folder, tmp_path, command):
    runs = [run for run in golden3.runs if run.picture < 2]
    reasoned = [run for run in runs if run.thoughts][:2]
    question, thing = reasoned[0].task.question, next(run.task.object for run in runs if isinstance(run.task, Detect))
    out = tmp_path / "out"
    asked = ("--caption", "--detect", thing, "--query", question, "--reasoning", "--no-report")
    status, stdout, _ = command("annotate", *words(golden3, folder), "--output", out, *asked)
    assert status == 0 and "6 requests = 6 in data/ + 0 in errors/: balances" in stdout
    rows = pa.concat_tables([pq.read_table(path) for path in (out / "data").glob("*.parquet")]).to_pylist()
    names = [picture.name for picture in sorted(folder.iterdir())]
    found = {(names.index(row["filename"]), row["task"]): row for row in rows}
    for run in runs:
        if run.task not in (Query(question, reasoning=True),):
            continue
        row = found[run.picture, "query"]
        assert (row["caption"], row["reasoning"]) == (run.wanted["text"], run.thoughts["text"])
        assert row["finish_reason"] == ("length" if run.is_cut else "stop")
        assert row["output_tokens"] == len(run.wanted["ids"]) + len(run.thoughts["ids"])
    assert {row["task"] for row in rows if row["reasoning"] is None} == {"caption", "detect"}


def test_estimate_annotates_a_sample(folder, command):
    golden = Golden("moondream3/fp8-legacy")
    asked = ("--query", "what is it", "--reasoning", "--sample", "1")
    status, stdout, stderr = command("estimate", *words(golden, folder), *asked)
    assert status == 0, stderr
    assert "local" in stdout or "here" in stdout
