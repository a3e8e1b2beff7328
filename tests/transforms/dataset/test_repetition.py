"""Distinct n-grams of many texts are counted at once, with the result of a naive count."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from moondream_beam.transforms.dataset.repetition import count_distinct_ngrams


def naive(text: str, run: int) -> int:
    return len({text[start : start + run] for start in range(len(text) - run + 1)})


def texts() -> list[str]:
    some = random.Random(7)
    alphabets = ["ab", "abcdefghij ", "äß黒い犬👩", "\x00\u200d\ufeff.", "".join(map(chr, range(32, 127)))]
    made = ["".join(some.choices(some.choice(alphabets), k=some.randrange(0, 300))) for _ in range(300)]
    loops = ["".join(some.choices(alphabets[2], k=size)) * 9 for size in (1, 3, 7, 8, 9, 40)]
    return ["", "a", "a" * 7, "a" * 8, "a" * 1000, *loops, *made]


@pytest.mark.parametrize("run", [1, 3, 8])
def test_the_counts_are_those_of_a_naive_count(run):
    assert count_distinct_ngrams(pa.array(texts()), run).to_pylist() == [naive(text, run) for text in texts()]


def test_null_and_short_texts_count_zero():
    assert count_distinct_ngrams(pa.array([None, "abc", None]), 2).to_pylist() == [0, 2, 0]
    assert count_distinct_ngrams(pa.array([None, ""]), 2).to_pylist() == [0, 0]
    assert count_distinct_ngrams(pa.array([], pa.string()), 2).to_pylist() == []
