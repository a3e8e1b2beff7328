"""The selection of rows, and the wide table made of them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest
from support.data.rows import NOW, annotation
from support.data.small_outputs import publish

from moondream_beam.transforms.dataset.export import wide
from moondream_beam.transforms.dataset.export.json_columns.values import to_json_value
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.output.writer import ShardWriter


@pytest.fixture
def select(tmp_path):
    """Selects among rows."""
    opened = []

    def run(*rows, **options):
        opened.append(Dataset(str(publish(tmp_path, *rows))))
        return Selection(opened[-1], **options)

    yield run
    for dataset in opened:
        dataset.database.close()


def table(selection):
    return list(selection.wide(selection.task_columns()))


def test_a_condition_is_sql_over_the_columns(select):
    rows = [annotation(id=str(size), key=str(size), width=size) for size in (100, 600)]
    assert [row["key"] for row in table(select(*rows, where="width >= 512 -- no thumbnails"))] == ["600"]


def test_drop_suspicious_leaves_out_flagged_rows(select):
    rows = [annotation(id="a", key="a"), annotation(id="b", key="b", finish_reason="length")]
    assert [row["key"] for row in table(select(*rows, drop_suspicious=True))] == ["a"]
    assert len(table(select(*rows, where="list_contains(_flags, 'cut off')"))) == 1


@pytest.mark.parametrize(
    "where, complaint",
    [
        ("width >", "syntax error"),
        ("no_such_column = 1", "no_such_column"),
        ("true)); DROP VIEW data; SELECT count(*) FROM (SELECT 1 WHERE (true", "syntax error"),
        ("true; DROP VIEW data", "give one expression"),
        ("1) OR (1=1", "syntax error"),
        ("true ORDER BY key", "syntax error"),
        ("", "empty: give a condition"),
        ("-- no condition", "syntax error"),
        ("false", "no row is left"),
    ],
)
def test_a_bad_condition_is_an_error_of_one_line(select, where, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        select(annotation(), where=where)
    assert len(str(error.value).splitlines()) == 1


def test_the_latest_of_several_answers_is_taken(select):
    rows = [annotation(id=str(day), caption=f"{day}", created_at=NOW + timedelta(days=day)) for day in (1, 3, 2)]
    selection = select(*rows)
    assert [row["caption_normal"] for row in table(selection)] == ["3"]
    assert (selection.answers, selection.older) == (1, 2)


def test_each_task_has_a_column_of_its_own(select):
    asked = [("query", "What?"), ("query", "what?!"), ("query", "日本語?"), ("query", "?"), ("detect", "big dog")]
    rows = [annotation(id=f"{task}{prompt}", task=task, prompt=prompt, caption=prompt) for task, prompt in asked]
    (row,) = table(select(*rows))
    assert {name: value for name, value in row.items() if name not in wide.PICTURE_COLUMNS} == {
        "detect_big_dog": None,
        "query": "?",
        "query_what": "What?",
        "query_what_2": "what?!",
        "query_日本語": "日本語?",
    }


def test_too_many_columns_are_an_error(select):
    rows = [annotation(id=str(number), prompt=str(number)) for number in range(wide.MAX_TASKS + 1)]
    with pytest.raises(ValueError, match="choose some with --where"):
        select(*rows).task_columns()


def test_manifest_columns_are_exported(tmp_path):
    kept = [pa.field("price", pa.float64()), pa.field("day", pa.timestamp("ms"))]
    writer = ShardWriter(str(tmp_path), "one", 0, kept)
    writer.add(annotation(columns=(float("nan"), datetime(2030, 1, 2))))
    writer.publish()
    with Dataset(str(tmp_path)) as dataset:
        (row,) = table(Selection(dataset))
    assert (row["price"], row["day"]) == (None, "2030-01-02T00:00:00")


def test_values_are_converted_to_json():
    odd = {"a": [float("inf"), (1, True)], "b": datetime(2030, 1, 1, tzinfo=timezone.utc), "c": b"\xff"}
    assert json.loads(json.dumps(to_json_value(odd))) == {
        "a": [None, [1, True]],
        "b": "2030-01-01T00:00:00+00:00",
        "c": "b'\\xff'",
    }
