"""Arguments as YAML gives them become tasks, sampling and names, or are refused with what to write."""

from __future__ import annotations

import pytest
import yaml

from moondream_beam import Caption, Detect, Point, Query, Sampling
from moondream_beam.pipelines.options.yaml import errors_of, sampling_of, tasks_of, texts_of


def test_tasks_keep_their_order_and_a_text_is_a_question():
    given = yaml.safe_load("""
        - caption: short
        - What is it?
        - {detect: dog}
        - {point: "left eye"}
        - query: "How many?"
    """)
    assert tasks_of(given) == (
        Caption("short"),
        Query("What is it?"),
        Detect("dog"),
        Point("left eye"),
        Query("How many?"),
    )
    assert tasks_of(None) == (Query(),)


@pytest.mark.parametrize(
    "given, told",
    [
        ("caption", "tasks: give a list"),
        ("{caption: short}", "tasks: give a list"),
        ("[caption]", "tasks: of caption, say what, as in {caption: ...}"),
        ("[{caption: short, query: Why}]", "is none: give a question, or one of"),
        ("[{describe: dog}]", "is none: give a question, or one of caption, query, detect, point"),
        ("[7]", "is none"),
        ("[{detect: yes}]", "detect True is no text"),
        ("[{caption: }]", "caption None is no text"),
        ("['']", "query: the prompt is empty"),
    ],
)
def test_what_is_no_task_is_refused(given, told):
    with pytest.raises(ValueError, match=told):
        tasks_of(yaml.safe_load(given))


def test_sampling_is_a_mapping_of_numbers():
    assert sampling_of({"temperature": 0, "max_tokens": 8}) == Sampling(8, 0)
    assert sampling_of(None) == Sampling()
    for given, told in [
        ({"warmth": 1}, "give a mapping of max_tokens, temperature"),
        (7, "give a mapping"),
        ({"temperature": "low"}, "temperature 'low' is no number"),
        ({"max_tokens": True}, "max_tokens True is no number"),
        ({"top_p": 2}, "top_p 2: give more than 0"),
    ]:
        with pytest.raises(ValueError, match=told):
            sampling_of(given)


def test_errors_go_to_an_output_of_another_name():
    assert errors_of({"output": "errors"}) == "errors"
    assert errors_of(None) is None
    for given, told in [
        ({}, "give {output: NAME}"),
        ("errors", "give {output: NAME}"),
        ({"output": "errors", "threshold": 0.1}, "nothing else"),
        ({"output": "good"}, "good is the name of the other output"),
    ]:
        with pytest.raises(ValueError, match=told):
            errors_of(given)


def test_one_text_stands_for_a_list_of_one():
    assert texts_of("path", "a") == ["a"]
    assert texts_of("path", ["a", "b"]) == ["a", "b"]
    for given in (7, [7], [""], {"a": 1}):
        with pytest.raises(ValueError, match="path: give a text or a list of them"):
            texts_of("path", given)
