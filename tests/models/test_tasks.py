"""Tasks and sampling refuse bad arguments, and different tasks have different digests."""

import json
import math

import pytest

from moondream_beam.models.tasks import Caption, Detect, Fault, Point, Query, Sampling, supports, task_digest

DIFFERENT = [
    Caption(),
    Caption("short"),
    Caption("long"),
    Query(),
    Query("normal"),
    Query("dog"),
    Query("Dog"),
    Query("dog "),
    Query("дог"),
    Detect("dog"),
    Detect("dog", 49),
    Detect("cat"),
    Point("dog"),
    Point("dog", 49),
]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Caption("medium"), "caption length 'medium': choose short, normal or long"),
        (lambda: Query(""), "query: the prompt is empty"),
        (lambda: Query(" \n"), "query: the prompt is empty"),
        (lambda: Detect(""), "detect: the prompt is empty"),
        (lambda: Point("\t"), "point: the prompt is empty"),
        (lambda: Detect("dog", 0), "max_objects 0: give a whole number, 1 or more"),
        (lambda: Point("dog", -1), "max_objects -1: give a whole number, 1 or more"),
        (lambda: Sampling(max_tokens=2.5), "max_tokens 2.5: give a whole number, 1 or more"),
        (lambda: Sampling(max_tokens=0), "max_tokens 0: give a whole number, 1 or more"),
        (lambda: Sampling(temperature=-0.1), "temperature -0.1: give 0 or more"),
        (lambda: Sampling(temperature=math.inf), "temperature inf: give 0 or more"),
        (lambda: Sampling(temperature=math.nan), "temperature nan: give 0 or more"),
        (lambda: Sampling(top_p=0), "top_p 0: give more than 0 and at most 1"),
        (lambda: Sampling(top_p=1.1), "top_p 1.1: give more than 0 and at most 1"),
        (lambda: Sampling(top_p=math.nan), "top_p nan: give more than 0 and at most 1"),
        (lambda: Sampling(repetition_penalty=0), "repetition_penalty 0: give more than 0; 1 changes nothing"),
        (lambda: Sampling(repetition_penalty=math.inf), "repetition_penalty inf: give more than 0"),
    ],
)
def test_a_bad_argument_is_refused_with_the_cure(make, message):
    with pytest.raises(ValueError) as refusal:
        make()
    assert str(refusal.value).startswith(message)


def test_defaults_are_those_of_the_hosted_endpoint():
    assert Sampling() == Sampling(max_tokens=None, temperature=0.2, top_p=1.0, repetition_penalty=1.0)
    assert (Caption().length, Query().question) == ("normal", "Describe this image.")


@pytest.mark.parametrize(
    "task, budget",
    [(Caption("short"), 64), (Caption(), 256), (Caption("long"), 512), (Query(), 64), (Detect("dog"), 64)],
)
def test_the_token_budget_depends_on_the_task_unless_max_tokens_is_given(task, budget):
    assert Sampling().budget(task) == budget
    assert Sampling(max_tokens=7).budget(task) == 7


def test_extreme_valid_numbers_are_accepted():
    Sampling(max_tokens=1, temperature=0, top_p=1e-9, repetition_penalty=0.5)


def test_the_prompt_is_the_length_question_or_object():
    assert [task.prompt for task in (Caption("long"), Query("why?"), Detect("dog"), Point("cat"))] == [
        "long",
        "why?",
        "dog",
        "cat",
    ]


def test_different_tasks_have_different_digests():
    assert len({task_digest(task) for task in DIFFERENT}) == len(DIFFERENT)


def test_equal_tasks_have_equal_digests():
    assert task_digest(Detect("dog", max_objects=50)) == task_digest(Detect(object="dog"))


def test_a_digest_is_json_with_sorted_keys_in_a_fixed_format():
    # Request ids of finished runs were made from these bytes.
    assert task_digest(Detect("a «dog»", 3)) == '{"max_objects": 3, "object": "a «dog»", "task": "detect"}'
    assert task_digest(Caption()) == '{"length": "normal", "task": "caption"}'
    for task in DIFFERENT:
        digest = task_digest(task)
        assert json.dumps(json.loads(digest), sort_keys=True, ensure_ascii=False) == digest


def test_reasoning_is_in_the_digest_only_if_it_is_on():
    """Request ids of outputs from before there was reasoning stay the same."""
    assert task_digest(Query("Why?")) == '{"question": "Why?", "task": "query"}'
    assert task_digest(Query("Why?", reasoning=True)) == '{"question": "Why?", "reasoning": true, "task": "query"}'


@pytest.mark.parametrize(
    "sampling, task, budget",
    [
        (Sampling(), Query(reasoning=True), 768),
        (Sampling(max_tokens=9), Query(reasoning=True), 9),
        (Sampling(), Query(), 0),
        (Sampling(max_tokens=9), Caption(), 0),
    ],
)
def test_a_reasoning_has_a_budget_of_its_own(sampling, task, budget):
    assert sampling.reasoning_budget(task) == budget
    assert sampling.budget(task) == Sampling(sampling.max_tokens).budget(task)


def test_an_annotator_supports_reasoning_only_if_it_says_so():
    class Plain:
        tasks = frozenset({Query})

    class Reasoner(Plain):
        supports_reasoning = True

    assert supports(Plain(), Query()) and not supports(Plain(), Query(reasoning=True))
    assert supports(Reasoner(), Query(reasoning=True)) and not supports(Reasoner(), Caption())


def test_a_fault_has_the_type_and_the_text_of_an_error():
    assert Fault.of(OSError("no disk"), retryable=True) == Fault("OSError", "no disk", retryable=True)
    assert not Fault.of(ValueError("bad")).retryable


@pytest.mark.parametrize("change", [{"length": "short"}, {"name": "x"}])
def test_a_task_cannot_be_changed(change):
    task = Caption()
    ((field, value),) = change.items()
    with pytest.raises(AttributeError):
        setattr(task, field, value)
