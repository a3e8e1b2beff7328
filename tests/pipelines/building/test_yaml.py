"""Arguments of Beam YAML become tasks, sampling and names, or are refused with the right syntax."""

from __future__ import annotations

import pytest
import yaml

from moondream_beam import Caption, Detect, Point, Query, Sampling
from moondream_beam.pipelines import beam_yaml
from moondream_beam.pipelines.building.yaml import parse_error_output, parse_sampling, parse_tasks, parse_texts


def test_tasks_keep_their_order_and_a_text_is_a_question():
    given = yaml.safe_load("""
        - caption: short
        - What is it?
        - {detect: dog}
        - {point: "left eye"}
        - query: "How many?"
        - {query: "Why?", reasoning: true}
        - {query: "Who?", reasoning: false}
    """)
    assert parse_tasks(given) == (
        Caption("short"),
        Query("What is it?"),
        Detect("dog"),
        Point("left eye"),
        Query("How many?"),
        Query("Why?", reasoning=True),
        Query("Who?"),
    )
    assert parse_tasks(None) == (Query(),)


def test_byte_order_marks_do_not_reach_the_model():
    text = '\ufeff- "\ufeffWho?"\n- detect: "\ufeffdog, wet"\n'
    assert parse_tasks(yaml.safe_load(text)) == (Query("Who?"), Detect("dog, wet"))


@pytest.mark.parametrize(
    "given, message",
    [
        ("caption", "tasks: give a list"),
        ("{caption: short}", "tasks: give a list"),
        ("[caption]", "tasks: caption needs a value: write {caption: ...}"),
        ("[{caption: short, query: Why}]", "is not a task: give a question, or a mapping of"),
        ("[{describe: dog}]", "is not a task: give a question, or a mapping of caption, query, detect, point"),
        ("[7]", "7 is not a task"),
        ("[{query: Why, reasoning: 1}]", "tasks: reasoning 1: give true or false"),
        ("[{caption: short, reasoning: true}]", "is not a task: give a question, or a mapping of"),
        ("[{detect: yes}]", "detect True is not a text"),
        ("[{caption: }]", "caption None is not a text"),
        ("['']", "query: the prompt is empty"),
        ("[{detect: 'person,car'}]", "names several objects: write {detect: person}, {detect: car}"),
        ("[{point: 'a,b '}]", "names several objects: write {point: a}, {point: b}"),
    ],
)
def test_bad_tasks_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        parse_tasks(yaml.safe_load(given))


def test_sampling_is_a_mapping_of_numbers():
    assert parse_sampling({"temperature": 0, "max_tokens": 8}) == Sampling(8, 0)
    assert parse_sampling(None) == Sampling()
    for given, message in [
        ({"warmth": 1}, "give a mapping of max_tokens, temperature"),
        (7, "give a mapping"),
        ({"temperature": "low"}, "temperature 'low' is not a number"),
        ({"max_tokens": True}, "max_tokens True is not a number"),
        ({"top_p": 2}, "top_p 2: give more than 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse_sampling(given)


def test_the_error_output_needs_its_own_name():
    assert parse_error_output({"output": "errors"}) == "errors"
    assert parse_error_output(None) is None
    for given, message in [
        ({}, "give {output: NAME}"),
        ("errors", "give {output: NAME}"),
        ({"output": "errors", "threshold": 0.1}, "nothing else"),
        ({"output": "good"}, "good is the name of the output for rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse_error_output(given)


def test_one_text_is_a_list_of_one():
    assert parse_texts("path", "a") == ["a"]
    assert parse_texts("path", ["a", "b"]) == ["a", "b"]
    for given in (7, [7], [""], {"a": 1}):
        with pytest.raises(ValueError, match="path: give a text or a list of them"):
            parse_texts("path", given)


@pytest.mark.parametrize(
    "transform, arguments, message",
    [
        (beam_yaml.Annotate, {"modle": "tiny"}, "^Annotate has no argument modle; did you mean model\\?"),
        (beam_yaml.Annotate, {"output": "out"}, "^Annotate has no argument output"),
        (beam_yaml.AnnotateToParquet, {"output": "o", "tsaks": []}, "^AnnotateToParquet .* did you mean tasks\\?"),
        (
            beam_yaml.AnnotateToParquet,
            {"output": "o", "shard-size": 9},
            "^AnnotateToParquet .* did you mean shard_size",
        ),
        (beam_yaml.ReadImages, {"pth": "photos"}, "^ReadImages has no argument pth; did you mean path\\?"),
        (beam_yaml.ReadManifest, {"path": "l.csv", "uri_colum": "u"}, "^ReadManifest .* did you mean uri_column\\?"),
    ],
)
def test_a_misspelt_argument_names_the_transform_and_what_was_meant(transform, arguments, message):
    with pytest.raises(ValueError, match=message):
        transform(**arguments)
