"""Numbers and keys of JSON Lines keep what stands in the file, or the row fails."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from moondream_beam.transforms.inputs.lists.json_types import json_schema, parse_json
from moondream_beam.transforms.inputs.lists.tables import read_rows
from moondream_beam.transforms.io.column_types import JsonNumber


def kept(tmp_path: Path, kind: pa.DataType, *numbers: str) -> list[object]:
    """Return the kept value of each number in a column of this type, or the problem of its row."""
    path = tmp_path / "list.jsonl"
    path.write_text("".join(f'{{"n": {number}}}\n' for number in numbers))
    return [row.problem or row.kept[0] for row in read_rows(str(path), [], {"n": kind})]


def test_a_text_column_keeps_the_digits_of_numbers(tmp_path: Path) -> None:
    numbers = ["0.12345678901234567890123", "1.10", "1e400", "123456789012345678901234567890", "-0.0"]
    assert kept(tmp_path, pa.string(), *numbers) == numbers


def test_a_number_that_a_double_can_not_hold_is_a_problem(tmp_path: Path) -> None:
    assert kept(tmp_path, pa.float64(), "1.5", "0.0", "-2e3", "0e5") == [1.5, 0.0, -2000.0, 0.0]
    for number in ("1e400", "-1e400", "1e-400"):
        (problem,) = kept(tmp_path, pa.float64(), number)
        assert f"column n: {number!r} does not fit double" in str(problem)


def test_a_key_that_is_there_twice_is_a_problem_also_inside(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"url": "a.png", "url": "b.png"}\n{"url": "c.png"}\n{"url": "d.png", "x": {"y": 1, "y": 2}}\n')
    first, second, third = read_rows(str(path), ["url"])
    assert "the key 'url' is there twice" in first.problem and "the key 'y' is there twice" in third.problem
    assert (second.problem, second.values) == ("", {"url": "c.png"})


def test_numbers_have_the_types_that_they_had() -> None:
    row = parse_json('{"a": 1.5, "b": 3, "c": 1e2}')
    assert json_schema([row]) == pa.schema([("a", pa.float64()), ("b", pa.int64()), ("c", pa.float64())])
    assert isinstance(row["a"], JsonNumber) and math.isclose(row["c"], 100)


@pytest.mark.parametrize(("text", "is_cut"), [("1e400", True), ("1e-400", True), ("0.000", False), ("0E9", False)])
def test_a_number_that_became_infinite_or_0_is_cut(text: str, is_cut: bool) -> None:
    assert JsonNumber(text).is_cut is is_cut
