"""Runs of characters are counted in many texts at once as one by one."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from moondream_beam.transforms.dataset.repetition import different_runs


def naive(text: str, run: int) -> int:
    return len({text[start : start + run] for start in range(len(text) - run + 1)})


def texts() -> list[str]:
    some = random.Random(7)
    alphabets = ["ab", "abcdefghij ", "äß黒い犬👩", "\x00\u200d\ufeff.", "".join(map(chr, range(32, 127)))]
    made = ["".join(some.choices(some.choice(alphabets), k=some.randrange(0, 300))) for _ in range(300)]
    loops = ["".join(some.choices(alphabets[2], k=size)) * 9 for size in (1, 3, 7, 8, 9, 40)]
    return ["", "a", "a" * 7, "a" * 8, "a" * 1000, *loops, *made]


@pytest.mark.parametrize("run", [1, 3, 8])
def test_each_text_has_as_many_different_runs_as_counted_by_hand(run):
    assert different_runs(pa.array(texts()), run).to_pylist() == [naive(text, run) for text in texts()]


def test_no_text_has_no_run():
    assert different_runs(pa.array([None, "abc", None]), 2).to_pylist() == [0, 2, 0]
    assert different_runs(pa.array([None, ""]), 2).to_pylist() == [0, 0]
    assert different_runs(pa.array([], pa.string()), 2).to_pylist() == []
