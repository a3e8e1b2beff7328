"""Columns are filled into prompts."""

from __future__ import annotations

import pytest

from moondream_beam.models.tasks import Caption, Detect, Point, Query, Task
from moondream_beam.transforms.core.prompt_templates import (
    column_template,
    fill_template,
    named_columns,
    unescape_braces,
)

ROW = {"product": "shoe", "colour of it": "red", "count": 3, "none": None, "blank": " ", "bytes": "Tür".encode()}


@pytest.mark.parametrize(
    ("task", "filled"),
    [
        (Query("Is {product} in the picture?"), Query("Is shoe in the picture?")),
        (Detect("{colour of it} {product}"), Detect("red shoe")),
        (Point("{product}", max_objects=3), Point("shoe", max_objects=3)),
        (Query("Are there {count}?"), Query("Are there 3?")),
        (Query("Is { product } {bytes}?"), Query("Is shoe Tür?")),
        (Query("What is {{this}}?"), Query("What is {this}?")),
        (Caption("short"), Caption("short")),
    ],
)
def test_a_column_in_braces_becomes_its_value(task: Task, filled: Task) -> None:
    assert fill_template(task, ROW) == filled


@pytest.mark.parametrize("column", ["none", "blank", "absent"])
def test_an_empty_column_is_refused(column: str) -> None:
    with pytest.raises(ValueError, match=f"column {column} is empty"):
        fill_template(Query(f"Is it {{{column}}}?"), ROW)


def test_named_columns_are_returned_once() -> None:
    assert named_columns([Query("{a} or {b}?"), Caption(), Detect("{b}")]) == ["a", "b"]


@pytest.mark.parametrize("text", ["{", "a } b", "{}", "{ }", "{a!r}", "{a:>9}", 'Answer as {"a": 1}'])
def test_braces_with_anything_but_a_name_are_refused_with_the_way_to_write_a_brace(text: str) -> None:
    with pytest.raises(ValueError, match="prompt .* write {{ and }} for a brace"):
        named_columns([Query(text)])


def test_attributes_in_braces_are_names_of_columns() -> None:
    with pytest.raises(ValueError, match="column product.__class__ is empty"):
        fill_template(Query("{product.__class__}"), ROW)


def test_doubled_braces_become_single_ones() -> None:
    assert unescape_braces(Query("{{a}} b")) == Query("{a} b")


def test_a_column_without_braces_in_its_name_can_be_a_prompt() -> None:
    assert fill_template(Query(column_template("colour of it")), ROW) == Query("red")
    with pytest.raises(ValueError, match="braces"):
        column_template("odd{name}")


def test_a_value_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ValueError, match="column a is not UTF-8: save the manifest as UTF-8"):
        fill_template(Query("{a}"), {"a": "caf\udce9"})
    with pytest.raises(ValueError, match="column a is not UTF-8: save the manifest as UTF-8"):
        fill_template(Query("{a}"), {"a": b"caf\xe9"})
