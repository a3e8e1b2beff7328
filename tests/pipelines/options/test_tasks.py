"""Options for tasks and sampling."""

from __future__ import annotations

import argparse

import pytest

from moondream_beam import Caption, Detect, Point, Query, Sampling
from moondream_beam.pipelines.options.tasks import (
    add_sampling_options,
    add_task_options,
    build_sampling,
    comma_note,
    with_reasoning,
)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_task_options(parser)
    add_sampling_options(parser)
    return parser


def test_tasks_keep_the_order_they_were_given_in(parser):
    words = ["--point", "cat", "--caption", "--query", "Why?", "--caption", "long", "--detect", "a dog"]
    asked = [Point("cat"), Caption("normal"), Query("Why?"), Caption("long"), Detect("a dog")]
    assert parser.parse_args(words).tasks == asked


def test_a_file_of_prompts_gives_one_query_for_each_line(parser, tmp_path):
    (tmp_path / "prompts.txt").write_text("Who?\n\n  Wo ist die Tür?  \n", encoding="utf-8")
    words = ["--caption", "--prompts", str(tmp_path / "prompts.txt")]
    assert parser.parse_args(words).tasks == [Caption(), Query("Who?"), Query("Wo ist die Tür?")]


@pytest.mark.parametrize(
    "content",
    ["\ufeffWho?\r\nWhy?\r\n", "Who?\n\ufeffWhy?\n", "\ufeff\ufeff Who?\n\n\ufeff\nWhy?\ufeff"],
)
def test_byte_order_marks_in_a_file_of_prompts_do_not_reach_the_model(parser, tmp_path, content):
    (tmp_path / "prompts.txt").write_bytes(content.encode())
    assert parser.parse_args(["--prompts", str(tmp_path / "prompts.txt")]).tasks == [Query("Who?"), Query("Why?")]


def test_a_byte_order_mark_before_a_prompt_on_the_command_line_does_not_reach_the_model(parser):
    words = ["--query", "\ufeffWho?", "--detect", "\ufeffdog", "--caption", "\ufefflong"]
    assert parser.parse_args(words).tasks == [Query("Who?"), Detect("dog"), Caption("long")]


def test_objects_separated_by_commas_are_several_tasks(parser):
    words = ["--detect", "person,red car", "--point", "{thing},{a,b}", "--query", "Red,green or blue?"]
    asked = [Detect("person"), Detect("red car"), Point("{thing}"), Point("{a,b}"), Query("Red,green or blue?")]
    assert parser.parse_args(words).tasks == asked
    assert comma_note(asked) == ""


def test_an_object_with_a_comma_and_a_space_is_one_and_a_line_says_so(parser):
    tasks = parser.parse_args(["--caption", "--point", "dog, cat"]).tasks
    assert tasks == [Caption(), Point("dog, cat")]
    assert "one object" in comma_note(tasks) and comma_note(tasks).endswith(" give --point 'dog' --point 'cat'")


def test_an_empty_object_between_commas_is_refused(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--detect", "person,"])
    assert "detect: the prompt is empty" in capsys.readouterr().err


def test_a_file_without_a_prompt_is_refused(parser, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(SystemExit):
        parser.parse_args(["--prompts", str(tmp_path / "empty.txt")])
    assert "empty.txt has no question" in capsys.readouterr().err


def test_reasoning_is_for_queries_and_off_by_default(parser):
    words = ["--caption", "--query", "Why?"]
    args = parser.parse_args([*words, "--reasoning"])
    assert with_reasoning(args.tasks, args) == (Caption(), Query("Why?", reasoning=True))
    args = parser.parse_args(words)
    assert with_reasoning(args.tasks, args) == (Caption(), Query("Why?"))


def test_reasoning_without_a_query_is_refused(parser):
    args = parser.parse_args(["--caption", "--reasoning"])
    with pytest.raises(ValueError, match="--reasoning: none of the tasks is a query; add --query TEXT"):
        with_reasoning(args.tasks, args)


def test_sampling_has_the_defaults_of_the_hosted_endpoint(parser):
    assert build_sampling(parser.parse_args([])) == Sampling(None, 0.2, 1.0, 1.0)
    words = ["--max-tokens", "9", "--temperature", "0", "--top-p", "0.5", "--repetition-penalty", "1.2"]
    assert build_sampling(parser.parse_args(words)) == Sampling(9, 0.0, 0.5, 1.2)
