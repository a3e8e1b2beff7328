"""Prompts that name columns."""

from __future__ import annotations

import pytest

from moondream_beam.models.tasks import Caption, Detect, Point, Query, Task
from moondream_beam.transforms.core.prompt_templates import (
    column_template,
    fill_template,
    named_columns,
    unescape_braces,
)

ROW = {"product": "shoe", "colour of it": "red", "count": 3, "none": None, "blank": " "}


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        (Query("Is {product} in the picture?"), Query("Is shoe in the picture?")),
        (Detect("{colour of it} {product}"), Detect("red shoe")),
        (Point("{product}", max_objects=3), Point("shoe", max_objects=3)),
        (Query("Are there {count}?"), Query("Are there 3?")),
        (Query("What is {{this}}?"), Query("What is {this}?")),
        (Caption("short"), Caption("short")),
    ],
)
def test_a_column_in_braces_stands_for_its_value(task: Task, asked: Task) -> None:
    assert fill_template(task, ROW) == asked


@pytest.mark.parametrize("column", ["none", "blank", "absent"])
def test_a_column_without_a_value_asks_nothing(column: str) -> None:
    with pytest.raises(ValueError, match=f"column {column} is empty"):
        fill_template(Query(f"Is it {{{column}}}?"), ROW)


def test_the_columns_that_prompts_name_are_told_once() -> None:
    assert named_columns([Query("{a} or {b}?"), Caption(), Detect("{b}")]) == ["a", "b"]


@pytest.mark.parametrize("text", ["{", "a } b", "{}", "{a!r}", "{a:>9}"])
def test_braces_hold_a_name_and_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="prompt"):
        named_columns([Query(text)])


def test_attributes_and_items_are_names_of_columns_and_no_way_into_objects() -> None:
    with pytest.raises(ValueError, match="column product.__class__ is empty"):
        fill_template(Query("{product.__class__}"), ROW)


def test_a_task_that_names_no_column_loses_its_doubled_braces() -> None:
    assert unescape_braces(Query("{{a}} b")) == Query("{a} b")


def test_a_column_of_any_name_without_braces_can_be_a_prompt() -> None:
    assert fill_template(Query(column_template("colour of it")), ROW) == Query("red")
    with pytest.raises(ValueError, match="braces"):
        column_template("odd{name}")


def test_words_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(ValueError, match="column a is no UTF-8 there: save the manifest as UTF-8"):
        fill_template(Query("{a}"), {"a": "caf\udce9"})
