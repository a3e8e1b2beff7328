"""A few answers at the end of a run, and what to type next."""

from __future__ import annotations

import pytest
from support.data.outputs import publish
from support.data.rows import annotation, failure

from moondream_beam import Box
from moondream_beam.pipelines.display.answers import MAX_ROWS_SHOWN, format_answers, format_next_steps


def row(name, **values):
    return annotation(**{"id": f"{name} {values.get('task')}", "key": name, "filename": name, **values})


def test_answers_of_each_task_are_sorted_by_name_and_task(tmp_path):
    boxes = (Box(0.1, 0.25, 0.5, 1.0),)
    rows = [
        row("b.jpg", caption="A cat."),
        row("a.jpg", task="detect", prompt="dog", caption=None, objects=boxes),
        row("a.jpg", task="detect", prompt="dogs", caption=None, objects=(), id="none"),
        row("a.jpg", caption="A dog."),
    ]
    publish(tmp_path, rows)
    lines = [line.split(maxsplit=3) for line in format_answers(str(tmp_path), "one")]
    assert lines == [
        ["filename", "task", "prompt", "answer"],
        ["a.jpg", "caption", "normal", "A dog."],
        ["a.jpg", "detect", "dog", "(0.10, 0.25, 0.50, 1.00)"],
        ["a.jpg", "detect", "dogs", "none"],
        ["b.jpg", "caption", "normal", "A cat."],
    ]


def test_only_some_answers_are_shown_each_on_one_line_of_the_terminal(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    long = "A \x1b[31mred\x1b[0m dog\nand " * 50
    publish(tmp_path, [row(f"{number:02}{'x' * 90}.jpg", caption=long) for number in range(30)])
    lines = list(format_answers(str(tmp_path), "one"))
    assert len(lines) == MAX_ROWS_SHOWN + 1 and max(map(len, lines)) <= 100
    assert not any("\x1b" in line or "\n" in line for line in lines) and lines[1].endswith("...")


def test_a_run_without_new_answers_shows_those_of_earlier_runs(tmp_path):
    publish(tmp_path, [row("a.jpg", caption="A dog.", run="one")])
    publish(tmp_path, [row("b.jpg", caption="A cat.", run="two")])
    assert list(format_answers(str(tmp_path), "two"))[1].startswith("b.jpg")
    assert list(format_answers(str(tmp_path), "three"))[1].startswith("a.jpg")


def test_an_output_without_answers_shows_nothing(tmp_path):
    publish(tmp_path, [failure()])
    assert list(format_answers(str(tmp_path), "one")) == []


@pytest.mark.parametrize(
    ("output", "has_report", "first"),
    [
        ("/out", True, "open /out/report.html"),
        ("/out", False, "moondream-beam report /out"),
        ("s3://b/out", False, "moondream-beam status s3://b/out"),
    ],
)
def test_the_next_steps_are_commands_for_this_output(output, has_report, first):
    lines = list(format_next_steps(output, has_report))
    assert first in lines[0] and f'"{output}/data"' in lines[1]
    assert f"moondream-beam export {output} answers.jsonl --to jsonl" in lines[2]
