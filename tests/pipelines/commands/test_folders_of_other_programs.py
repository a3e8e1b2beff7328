"""Commands that read an output say in one line that a folder is none, and what they can read instead."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data.rows import annotation, failure
from support.data.small_outputs import publish


@pytest.fixture
def foreign(tmp_path):
    """A folder as image datasets have it."""
    (tmp_path / "birds" / "data").mkdir(parents=True)
    pq.write_table(pa.table({"image": ["a.jpg"], "label": [1]}), tmp_path / "birds" / "data" / "train-0.parquet")
    return tmp_path / "birds"


@pytest.mark.parametrize(
    "words, cure",
    [
        (("export", "OUT", "--to", "jsonl", "NEW"), "give the folder that annotate wrote"),
        (("export", "OUT", "--to", "jsonl", "NEW", "--where", "label = 1"), "give the folder that annotate wrote"),
        (("report", "OUT"), "give the folder that annotate wrote"),
        (("status", "OUT"), "give the folder that annotate writes to"),
    ],
)
def test_parquet_of_another_program_is_one_line_of_error(words, cure, foreign, tmp_path, command):
    places = {"OUT": foreign, "NEW": tmp_path / "new"}
    status, stdout, stderr = command(*(places.get(word, word) for word in words))
    assert (status, stdout) == (2, "") and len(stderr.splitlines()) == 1
    assert str(foreign) in stderr and cure in stderr
    assert {path.name for path in tmp_path.rglob("*")} == {"birds", "data", "train-0.parquet"}


def test_an_output_of_failures_says_what_can_be_exported(tmp_path, command):
    out = publish(tmp_path / "out", failure(), failure(id="b"))
    status, _, stderr = command("export", out, "--to", "jsonl", tmp_path / "new")
    assert status == 2 and len(stderr.splitlines()) == 1
    assert "2 rows in errors/" in stderr and "--retry-errors" in stderr and f"{out}/errors/*.parquet" in stderr


@pytest.mark.parametrize("column", ["stage", "message"])
def test_a_condition_on_a_column_of_errors_says_where_that_is(column, tmp_path, command):
    out = publish(tmp_path / "out", annotation(), failure())
    status, _, stderr = command("export", out, "--to", "jsonl", tmp_path / "new", "--where", f"{column} = 'fetch'")
    assert status == 2 and len(stderr.splitlines()) == 1
    assert f"{column} is a column of errors/" in stderr and f"{out}/errors/*.parquet" in stderr


def test_a_selection_without_rows_says_which_option_to_change(tmp_path, command):
    out = publish(tmp_path / "out", annotation(caption=""), failure())
    _, _, stderr = command("export", out, "--to", "jsonl", tmp_path / "new", "--drop-suspicious")
    assert "all 1 chosen rows have a flag; leave out --drop-suspicious" in stderr
    _, _, stderr = command("export", out, "--to", "jsonl", tmp_path / "new", "--where", "width = 1")
    assert "none of 1 rows meets --where width = 1; give another condition" in stderr
