"""JSON schemas of answers, and texts that fit them or not."""

import json

import pytest

from moondream_beam.models.structured.schema import fields_of, find_problem, json_of, schema_text
from moondream_beam.models.tasks import Query, Sampling, task_digest

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "count": {"type": "integer", "minimum": 0}},
    "required": ["colour"],
}
TEXT = schema_text(SCHEMA)


@pytest.mark.parametrize(
    "schema, message",
    [
        ("{", "give a JSON schema"),
        ([1], "give a JSON schema that is an object"),
        ({"type": "thing"}, "'thing' is not valid"),
        ({"properties": {"a": {"type": 1}}}, "correct it at $.properties.a.type"),
        ({"$ref": "http://example.org/x.json"}, "$ref http://example.org/x.json names another document"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "$ref #/$defs/none names nothing in the schema"),
        ({"x": float("nan")}, "give a JSON schema"),
    ],
)
def test_a_bad_schema_is_refused_with_the_cure(schema, message):
    with pytest.raises(ValueError) as refusal:
        Query("What?", schema=schema)
    assert message in str(refusal.value)


def test_a_query_with_a_schema_is_hashable_and_has_its_own_digest():
    query = Query("What?", schema=SCHEMA)
    assert hash(query) == hash(Query("What?", schema=json.dumps(SCHEMA, indent=3)))
    assert len({task_digest(task) for task in (query, Query("What?"), Query("What?", schema={"type": "object"}))}) == 3
    assert "schema" not in task_digest(Query("What?"))
    assert query.prompt == "What?"


def test_a_query_with_a_schema_has_more_tokens_by_default():
    assert Sampling().budget(Query("What?", schema=SCHEMA)) == 512
    assert Sampling(max_tokens=9).budget(Query("What?", schema=SCHEMA)) == 9


@pytest.mark.parametrize(
    "text, problem",
    [
        ('{"colour": "red"}', None),
        ('{"colour": "red", "count": 3, "more": null}', None),
        ('{"colour": 1}', "$.colour: 1 is not of type 'string'"),
        ('{"count": 1}', "'colour' is a required property"),
        ('{"colour": "red", "count": -1}', "$.count"),
        ('{"colour": "red"', "it is not JSON"),
        ('{"colour": "red", "count": NaN}', "NaN is not JSON"),
        ("a red car", "it is not JSON"),
        ("", "it is not JSON"),
    ],
)
def test_the_problem_of_an_answer_is_named(text, problem):
    found = find_problem(text, TEXT)
    assert found is None if problem is None else problem in found


def test_a_schema_may_refer_to_its_own_definitions():
    text = schema_text({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}})
    assert find_problem('{"a": 1}', text) is None and "integer" in find_problem('{"a": "x"}', text)


@pytest.mark.parametrize("text", ['```json\n{"a": 1}\n```', '\n```\n{"a": 1}\n```\n', '  {"a": 1}\n'])
def test_marks_of_markdown_are_no_part_of_the_json(text):
    assert json_of(text) == '{"a": 1}'


def test_the_fields_of_nested_objects_have_paths():
    nested = {"properties": {"a": {"properties": {"b": {}, "c": {"type": "array"}}}, "d": {"type": "string"}}}
    assert fields_of(nested) == [("a", "b"), ("a", "c"), ("d",)]
    assert fields_of({"type": "array"}) == []
