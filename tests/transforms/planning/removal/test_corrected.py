"""Once an input is corrected, --retry-errors removes its rows from errors/, and no other row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from PIL import Image
from support.data.echo import Echo
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Caption, Query
from moondream_beam.transforms.annotation.job import AnnotateToParquet
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.manifest import ReadManifests
from moondream_beam.transforms.inputs.manifest_columns import EMPTY_PROMPT, Columns

TASKS = (Caption(), Query("{question}"))
BROKEN = "url,question\n0.png,What?\n1.png,\n,Where?\n"
RIGHT = "url,question\n0.png,What?\n1.png,Who?\n2.png,Where?\n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(3):
        Image.new("RGB", (10 + number, 8)).save(tmp_path / f"{number}.png")
    return tmp_path


def annotate(
    folder: Path, text: str, name: str = "list.csv", *, skip: bool = False, tasks=TASKS, by=None, **options: Any
) -> dict[str, Any]:
    path = folder / name
    path.write_text(text)
    columns = Columns("url", tasks=tasks, skip_empty_prompts=skip)
    job = AnnotateToParquet(tasks, by or Echo(), str(folder / "out"), manifests=[str(path)], **options)
    (record,) = collect(lambda pipeline: pipeline | ReadManifests([str(path)], columns) | job)
    assert record["balanced"]
    return record


def failures(folder: Path) -> list[tuple[str, str]]:
    errors = folder / "out" / "errors"
    rows = (
        ds.dataset(errors, format="parquet").to_table(["filename", "task"]).to_pylist() if any(errors.iterdir()) else []
    )
    return sorted((row["filename"], row["task"]) for row in rows)


LEFT = [("1.png", "query"), ("list.csv#4", "caption"), ("list.csv#4", "query")]


def test_corrected_questions_and_addresses_leave_no_row_in_errors(pictures):
    annotate(pictures, BROKEN)
    assert failures(pictures) == LEFT
    # Without the option, the rows stay. Their number is in the record.
    record = annotate(pictures, RIGHT)
    assert (record["counts"]["annotations"], record["error_rows"], record["common_errors"]) == (3, 3, [])
    assert failures(pictures) == LEFT
    record = annotate(pictures, RIGHT, retry_errors=True)
    assert (record["counts"]["corrected"], record["counts"]["pending"], record["error_rows"]) == (3, 0, 0)
    assert failures(pictures) == []
    assert "corrected" not in annotate(pictures, RIGHT, retry_errors=True)["counts"]


def test_what_is_still_broken_is_tried_again_and_stays(pictures):
    annotate(pictures, BROKEN)
    record = annotate(pictures, BROKEN, retry_errors=True)
    assert "corrected" not in record["counts"] and record["counts"]["retried"] == 3
    assert failures(pictures) == LEFT


def test_a_row_that_was_taken_out_of_the_manifest_leaves_no_row_in_errors(pictures):
    annotate(pictures, BROKEN)
    record = annotate(pictures, "".join(BROKEN.splitlines(keepends=True)[:3]), retry_errors=True)
    assert record["counts"]["corrected"] == 2 and failures(pictures) == LEFT[:1]


def test_questions_that_may_be_empty_now_leave_no_row_in_errors(pictures):
    annotate(pictures, BROKEN)
    record = annotate(pictures, BROKEN.replace("\n,", "\n2.png,"), skip=True, retry_errors=True)
    assert record["counts"]["corrected"] == 3 and failures(pictures) == []


def test_a_picture_of_which_nothing_is_asked_any_more_leaves_no_row_in_errors(pictures):
    tasks = (Query("{question}"),)
    annotate(pictures, BROKEN, tasks=tasks)
    assert failures(pictures) == [("1.png", "query"), ("list.csv#4", "query")]
    record = annotate(pictures, BROKEN, tasks=tasks, skip=True, retry_errors=True)
    assert record["counts"]["corrected"] == 1 and failures(pictures) == [("list.csv#4", "query")]


def test_rows_of_another_model_stay_while_the_input_is_broken(pictures):
    annotate(pictures, BROKEN)
    record = annotate(pictures, BROKEN, by=Echo(name="other"), retry_errors=True)
    assert "corrected" not in record["counts"] and failures(pictures) == sorted(LEFT * 2)


def test_failures_of_other_inputs_stay(pictures):
    annotate(pictures, BROKEN)
    (pictures / "broken.png").write_bytes(b"no picture")
    record = annotate(pictures, "url,question\n2.png,Who?\nbroken.png,What?\n", "other.csv", retry_errors=True)
    assert "corrected" not in record["counts"] and record["counts"]["failures"] == 2
    assert failures(pictures) == sorted([*LEFT, ("broken.png", "caption"), ("broken.png", "query")])
    # The same picture in a folder has no question at all: its failed query is of another input.
    job = AnnotateToParquet([Caption()], Echo(), str(pictures / "out"), retry_errors=True)
    (record,) = collect(lambda pipeline: pipeline | ReadImages(str(pictures / "1.png")) | job)
    assert "corrected" not in record["counts"] and LEFT[0] in failures(pictures)


def test_a_prompt_whose_column_is_empty_is_left_out_and_counted_on_demand(pictures):
    record = annotate(pictures, "url,question\n0.png,What?\n1.png,\n2.png,  \n", skip=True)
    assert (record["counts"]["inputs"], record["counts"]["annotations"], record["counts"]["failures"]) == (3, 4, 0)
    assert record["skipped"] == {EMPTY_PROMPT: {"count": 2, "example": "list.csv#3"}}
    # A row without an address fails, also if its question is empty.
    record = annotate(pictures, "url,question\n,\n", "other.csv", skip=True)
    assert failures(pictures) == [("other.csv#2", "caption")] and record["skipped"][EMPTY_PROMPT]["count"] == 1


@pytest.mark.parametrize("prompts", [("{a}",), ("{a}", "Is it {a}?")])
def test_a_row_of_which_nothing_is_left_is_one_input(pictures, prompts):
    path = pictures / "list.csv"
    path.write_text("url,a\n0.png,\n1.png,it\n")
    tasks = tuple(map(Query, prompts))
    job = AnnotateToParquet(tasks, Echo(), str(pictures / "out"))
    columns = Columns("url", tasks=tasks, skip_empty_prompts=True)
    (record,) = collect(lambda pipeline: pipeline | ReadManifests([str(path)], columns) | job)
    assert (record["counts"]["inputs"], record["counts"]["annotations"]) == (2, len(prompts))
    assert record["skipped"] == {EMPTY_PROMPT: {"count": len(prompts), "example": "list.csv#2"}}
