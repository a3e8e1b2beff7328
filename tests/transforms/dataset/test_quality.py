"""Which rows are suspicious, and which only look like it."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from support.data.outputs import LOOP, publish
from support.data.rows import annotation

from moondream_beam.transforms.dataset.quality import (
    LOOP_DISTINCT,
    LOOP_LENGTH,
    LOOP_LOOKED_AT,
    LOOP_WINDOW,
    QUALITY_FLAGS,
    SHARED_PICTURES,
)
from moondream_beam.transforms.dataset.reader import Dataset

PLAIN = "A black dog runs over wet sand, and behind it two children fly a kite in the wind of the evening."


def judged(output, *rows):
    publish(output, [row._replace(id=str(index)) for index, row in enumerate(rows)])
    with Dataset(str(output)) as dataset:
        return [kinds for (kinds,) in dataset.tuples("SELECT _flags FROM flagged ORDER BY id::INT")]


@pytest.mark.parametrize(
    "text, kind",
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        (LOOP, "loop"),
        ("ha" * 40, "loop"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, there is nothing.", "refusal"),
        ("I’m unable to see a person.", "refusal"),
        ("I am not able to do that.", "refusal"),
        ("As an AI, I have no eyes.", "refusal"),
        ("It is a face; I cannot assist with that.", "refusal"),
        ("The image shows a dog on sand.", "boilerplate"),
        ("In this picture, a dog runs.", "boilerplate"),
        ("An image of a dog.", "boilerplate"),
    ],
)
def test_a_text_is_of_one_kind(text, kind, tmp_path):
    assert judged(tmp_path, annotation(caption=text)) == [[kind]]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "no",
        "3",
        "no no no no",
        "A sign says: I can't swim.",
        "A man who looks sorry holds a picture of the sea.",
        "The picture frame on the wall is of gold.",
        "黒い犬が濡れた砂の上を走り、その後ろで二人の子供が夕方の風に凧を揚げている。遠くに船が見える。",
    ],
)
def test_a_plain_text_is_not_suspicious(text, tmp_path):
    assert judged(tmp_path, annotation(caption=text)) == [[]]


def test_an_answer_at_its_limit_is_cut_off_whatever_it_is(tmp_path):
    cut = annotation(finish_reason="length", caption=PLAIN)
    assert judged(tmp_path, cut, cut._replace(caption=None, task="detect", objects=())) == [["cut off"]] * 2


def test_boxes_and_points_without_text_are_not_empty(tmp_path):
    boxes = annotation(caption=None, task="detect", objects=())
    assert judged(tmp_path, boxes, boxes._replace(task="point", objects=None, points=())) == [[], []]


def test_a_missing_text_is_empty(tmp_path):
    assert judged(tmp_path, annotation(caption=None)) == [["empty"]]


def test_one_text_is_shared_from_so_many_pictures_on(tmp_path):
    rows = [annotation(key=f"k{index}", caption=PLAIN) for index in range(SHARED_PICTURES)]
    assert judged(tmp_path / "all", *rows) == [["shared"]] * SHARED_PICTURES
    assert judged(tmp_path / "fewer", *rows[1:]) == [[]] * (SHARED_PICTURES - 1)


def test_short_answers_and_other_questions_share_nothing(tmp_path):
    yes = [annotation(key=f"k{index}", caption="yes") for index in range(SHARED_PICTURES)]
    others = [annotation(key=f"k{index}", caption=PLAIN, prompt=str(index)) for index in range(SHARED_PICTURES)]
    assert judged(tmp_path, *yes, *others) == [[]] * (2 * SHARED_PICTURES)


def test_a_row_may_be_of_several_kinds(tmp_path):
    row = annotation(caption="The image shows " + "a dog, " * LOOP_LENGTH, finish_reason="length")
    assert judged(tmp_path, row) == [["cut off", "loop", "boilerplate"]]


def test_each_kind_has_a_name_of_its_own():
    assert len({suspicion.name for suspicion in QUALITY_FLAGS}) == len(QUALITY_FLAGS)


def test_loops_are_those_that_the_rule_finds_one_window_after_the_other(tmp_path):
    some = random.Random(3)
    sizes = [(some.randrange(1, 600), some.choice([60, 200, 1500])) for _ in range(300)]
    texts = [("".join(some.choices("abc \n犬", k=size)) * 1500)[:length] for size, length in sizes]

    def loops(text):
        ending = text[-LOOP_LOOKED_AT:]
        windows = [ending[start : start + LOOP_WINDOW] for start in range(len(ending) - LOOP_WINDOW + 1)]
        return len(text) >= LOOP_LENGTH and len(set(windows)) < LOOP_DISTINCT * len(windows)

    found = ["loop" in kinds for kinds in judged(tmp_path, *(annotation(caption=text) for text in texts))]
    assert found == [loops(text) for text in texts]
    assert 50 < sum(found) < 250


def test_a_kept_column_may_bear_the_name_of_ours(tmp_path):
    row = annotation()._replace(id="1", caption="", columns=("mine",))
    publish(tmp_path, [row], [pa.field("suspicions", pa.string())])
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT suspicions, _flags FROM flagged") == [("mine", ["empty"])]
