"""The lines of JSON that DuckDB writes have the values, and the order of columns, that Python writes row by row."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from support.data.outputs import publish, record
from support.data.rows import annotation
from support.data.small_outputs import HOSTILE

from moondream_beam.models.tasks import Box, Spot
from moondream_beam.transforms.dataset.export.json_columns.lines import NAMES
from moondream_beam.transforms.dataset.export.json_columns.values import json_expression, to_json_value
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset

# Values in SQL that DuckDB writes, and values that Python must write.
BY_DUCKDB = (
    "NULL::VARCHAR",
    "'a\"b\\/ \u2028 é 😀' || chr(0) || chr(31) || chr(127) || chr(10)",
    "''",
    "true",
    "(-128)::TINYINT",
    "65535::USMALLINT",
    "9223372036854775807::BIGINT",
    "18446744073709551615::UBIGINT",
    "0.1::FLOAT",
    "16777217::FLOAT",
    "3.4028235e38::FLOAT",
    "1e-45::FLOAT",
    "'nan'::FLOAT",
    "'-inf'::FLOAT",
    "'-0.0'::DOUBLE",
    "1e16::DOUBLE",
    "1.7976931348623157e308::DOUBLE",
    "5e-324::DOUBLE",
    "'inf'::DOUBLE",
    "NULL::DOUBLE",
    "[]::INT[]",
    "NULL::DOUBLE[]",
    "[1.5, NULL, 'nan'::DOUBLE]",
    "[['inf'::FLOAT, 0.1::FLOAT], NULL, []]",
    "{'x': 0.5::FLOAT, 'a \"name\"': 'it''s'}",
    "{'x': 'nan'::DOUBLE, 'it''s': {'y': [1, NULL]}}",
    "NULL::STRUCT(x DOUBLE)",
    "[{'x': 'nan'::FLOAT, 'y': 0.5::FLOAT}, NULL]",
)
BY_PYTHON = (
    "DATE '2030-01-02'",
    "TIMESTAMP '2030-01-02 03:04:05.678'",
    "TIMESTAMPTZ '2030-01-02 03:04:05+00'",
    "1.50::DECIMAL(10, 4)",
    "'ab'::BLOB",
    "170141183460469231731687303715884105727::HUGEINT",
    "'{\"a\": 1}'::JSON",
    "MAP {'a': 1}",
    "[DATE '2030-01-02']",
    "{'x': 1, 'y': TIME '10:00:00'}",
)


@pytest.mark.parametrize("value", BY_DUCKDB)
def test_duckdb_writes_the_value_that_python_writes(value):
    with duckdb.connect() as database:
        relation = database.sql(f"SELECT {value} AS value")
        expression = json_expression("value", relation.types[0])
        query = f"SELECT value, CAST(json_object('v', {expression}) AS VARCHAR) FROM relation"
        ((found, text),) = database.sql(query).fetchall()
    # Compared as text too, because 1 equals 1.0 and True, and -0.0 equals 0.0.
    assert json.dumps(json.loads(text)) == json.dumps({"v": to_json_value(found)})


@pytest.mark.parametrize("value", BY_PYTHON)
def test_other_types_are_left_to_python(value):
    with duckdb.connect() as database:
        assert json_expression("value", database.sql(f"SELECT {value} AS value").types[0]) is None


KEPT = {
    pa.field("number", pa.uint64()): [2**64 - 1, None, 0],
    pa.field("share", pa.float32()): [float("nan"), 0.1, None],
    pa.field("tags", pa.list_(pa.string())): [["a", None, HOSTILE[5]], [], None],
    pa.field("meta", pa.struct([("it's", pa.float64()), ("b", pa.list_(pa.float64()))])): [
        {"it's": float("inf"), "b": [1.5, float("nan")]},
        None,
        {"it's": None, "b": None},
    ],
    pa.field("day", pa.date32()): [date(2030, 1, 2), None, date(1, 1, 1)],
    pa.field("line", pa.string()): list(HOSTILE[:3]),
    pa.field("at", pa.timestamp("us", "UTC")): [datetime(2030, 1, 2, 3, 4, 5, 6, timezone.utc), None, None],
    pa.field("price", pa.decimal128(10, 2)): [Decimal("1.50"), None, Decimal("-0.01")],
    pa.field("code", pa.binary()): [b"\xff\x00", None, b""],
}
SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}, "count": {"type": "integer"}}}


def write(out: Path, kept: dict[pa.Field, list]) -> None:
    """Write an output about three pictures with all tasks. One answer is structured, and one has another form."""
    columns = list(zip(*kept.values(), strict=True)) or [()] * 3
    boxes = (Box(0.1, float("nan"), 0.3, float("inf")), Box(0.25, 0.5, 0.75, 1.0))
    rows = []
    for number, text in enumerate(HOSTILE[:3]):
        own = {"key": f"key {number}", "filename": f"{text}.jpg", "uri": f"/x/{number}.jpg", "columns": columns[number]}
        answers = [
            {"task": "caption", "prompt": "normal", "caption": text},
            {"task": "detect", "prompt": 'it\'s "red"', "caption": None, "objects": boxes[:number]},
            {"task": "point", "prompt": "cat", "caption": None, "points": (Spot(0.5, float("nan")),)},
            {
                "task": "query",
                "prompt": "What?",
                "caption": ['{"colour": "r\\u00e9d", "count": 2}', "none", "3"][number],
            },
        ]
        # The last picture has no caption.
        rows += [
            annotation(id=f"{number} {index}", **own, **answer) for index, answer in enumerate(answers[number // 2 :])
        ]
    publish(out, rows, list(kept))


@pytest.mark.parametrize("names", [[], ["number", "share", "tags", "meta", "line"], [field.name for field in KEPT]])
@pytest.mark.parametrize("schema", [None, SCHEMA])
def test_lines_equal_the_rows_in_values_and_columns(names, schema, tmp_path):
    write(tmp_path, {field: values for field, values in KEPT.items() if field.name in names})
    record(tmp_path, "one")
    path = tmp_path / "runs" / "one.json"
    tasks = [{"task": "query", "prompt": "What?", "schema": schema}] if schema else []
    path.write_text(json.dumps({**json.loads(path.read_text()), "tasks": tasks}))
    with Dataset(str(tmp_path)) as dataset:
        selection = Selection(dataset)
        columns = selection.task_columns()
        assert any(column.fields for column in columns) == bool(schema)
        rows = list(selection.wide(columns, first=["key 1"]))
        lines = list(selection.wide_lines(columns, ["key 1"]))
    assert len(rows) == 3 and rows[0]["key"] == "key 1"
    # As text, so that the order of columns, the kinds of numbers and their digits are equal too.
    assert [json.dumps(json.loads(line)) for _, line in lines] == [json.dumps(row) for row in rows]
    assert [names for names, _ in lines] == [{name: row[name] for name in NAMES} for row in rows]
    assert all(line.count("\n") == 1 and line.endswith("}\n") for _, line in lines)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let the system refuse longer files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_that_cannot_be_written_leave_no_file(export, tmp_path):
    rows = [annotation(id=f"{number}", key=f"{number}", caption="a" * 9999) for number in range(9)]
    export("jsonl", rows, "first.jsonl")
    with largest_file(50_000), pytest.raises(OSError, match="too large"):
        export("jsonl", rows, "second.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "first.jsonl"}
