"""Each quality flag marks the rows that it is for, and no plain rows."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from support.data.outputs import LOOP, publish
from support.data.rows import annotation

from moondream_beam.transforms.dataset.quality import (
    LOOP_MAX_DISTINCT,
    LOOP_MIN_LENGTH,
    LOOP_NGRAM,
    LOOP_TAIL,
    QUALITY_FLAGS,
    SHARED_MIN_PICTURES,
)
from moondream_beam.transforms.dataset.reader import Dataset

PLAIN = "A black dog runs over wet sand, and behind it two children fly a kite in the wind of the evening."


def flags_of(output, *rows):
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
def test_a_suspicious_text_has_exactly_its_flag(text, kind, tmp_path):
    assert flags_of(tmp_path, annotation(caption=text)) == [[kind]]


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
def test_a_plain_text_has_no_flag(text, tmp_path):
    assert flags_of(tmp_path, annotation(caption=text)) == [[]]


def test_an_answer_at_its_token_limit_is_cut_off_for_any_task(tmp_path):
    cut = annotation(finish_reason="length", caption=PLAIN)
    assert flags_of(tmp_path, cut, cut._replace(caption=None, task="detect", objects=())) == [["cut off"]] * 2


def test_boxes_and_points_without_text_are_not_empty(tmp_path):
    boxes = annotation(caption=None, task="detect", objects=())
    assert flags_of(tmp_path, boxes, boxes._replace(task="point", objects=None, points=())) == [[], []]


def test_a_missing_text_is_empty(tmp_path):
    assert flags_of(tmp_path, annotation(caption=None)) == [["empty"]]


def test_a_text_is_shared_from_the_minimum_number_of_pictures_on(tmp_path):
    rows = [annotation(key=f"k{index}", caption=PLAIN) for index in range(SHARED_MIN_PICTURES)]
    assert flags_of(tmp_path / "all", *rows) == [["shared"]] * SHARED_MIN_PICTURES
    assert flags_of(tmp_path / "fewer", *rows[1:]) == [[]] * (SHARED_MIN_PICTURES - 1)


def test_short_answers_and_answers_to_other_prompts_are_not_shared(tmp_path):
    yes = [annotation(key=f"k{index}", caption="yes") for index in range(SHARED_MIN_PICTURES)]
    others = [annotation(key=f"k{index}", caption=PLAIN, prompt=str(index)) for index in range(SHARED_MIN_PICTURES)]
    assert flags_of(tmp_path, *yes, *others) == [[]] * (2 * SHARED_MIN_PICTURES)


def test_a_row_may_have_several_flags(tmp_path):
    row = annotation(caption="The image shows " + "a dog, " * LOOP_MIN_LENGTH, finish_reason="length")
    assert flags_of(tmp_path, row) == [["cut off", "loop", "boilerplate"]]


def test_flag_names_are_unique():
    assert len({suspicion.name for suspicion in QUALITY_FLAGS}) == len(QUALITY_FLAGS)


def test_loops_are_those_that_a_naive_count_of_ngrams_finds(tmp_path):
    some = random.Random(3)
    sizes = [(some.randrange(1, 600), some.choice([60, 200, 1500])) for _ in range(300)]
    texts = [("".join(some.choices("abc \n犬", k=size)) * 1500)[:length] for size, length in sizes]

    def loops(text):
        ending = text[-LOOP_TAIL:]
        windows = [ending[start : start + LOOP_NGRAM] for start in range(len(ending) - LOOP_NGRAM + 1)]
        return len(text) >= LOOP_MIN_LENGTH and len(set(windows)) < LOOP_MAX_DISTINCT * len(windows)

    found = ["loop" in kinds for kinds in flags_of(tmp_path, *(annotation(caption=text) for text in texts))]
    assert found == [loops(text) for text in texts]
    assert 50 < sum(found) < 250


def test_a_manifest_column_named_suspicions_is_kept(tmp_path):
    row = annotation()._replace(id="1", caption="", columns=("mine",))
    publish(tmp_path, [row], [pa.field("suspicions", pa.string())])
    with Dataset(str(tmp_path)) as dataset:
        assert dataset.tuples("SELECT suspicions, _flags FROM flagged") == [("mine", ["empty"])]
