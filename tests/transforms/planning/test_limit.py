"""A limit keeps the same pictures in every run, each with all its rows, and counts what it leaves out."""

from __future__ import annotations

import random

import apache_beam as beam
import pytest
from support.running.beam_runs import collect

from moondream_beam.transforms.core.records import ImageRef, Skipped
from moondream_beam.transforms.planning.limit import LimitPictures, _SmallestPictures

REFS = [ImageRef(f"/photos/{index}.jpg", f"{index}.jpg") for index in range(50)]
ROWS = [ref._replace(columns=((number,),)) for ref in REFS for number in range(3)]


def limited(refs: list[ImageRef], size: int) -> list[ImageRef]:
    return sorted(collect(lambda pipeline: pipeline | beam.Create(refs) | LimitPictures(size)))


def test_the_same_pictures_are_kept_with_all_their_rows_in_any_order() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert limited(ROWS, 4) == limited(shuffled, 4)
    kept = [ref for ref in limited(ROWS, 4) if not ref.skipped]
    assert len(kept) == 12 and len({ref.key for ref in kept}) == 4
    # A larger limit adds pictures and takes none away.
    assert set(kept) < set(limited(ROWS, 9))


def test_what_is_beyond_the_limit_is_counted_and_what_is_skipped_stays() -> None:
    text = ImageRef("/photos/*.txt", "notes.txt", skipped=Skipped("texts", 3))
    found = limited([*ROWS, text], 4)
    beyond, other = (ref for ref in found if ref.skipped)
    assert other == text and beyond.skipped is not None
    assert (beyond.skipped.count, beyond.skipped.is_input) == (150 - 12, True) and "--limit 4" in beyond.skipped.kind
    kept = {ref.filename for ref in found if not ref.skipped}
    assert beyond.filename == min({ref.filename for ref in REFS} - kept)


@pytest.mark.parametrize("size", [50, 51, 1000])
def test_a_limit_that_leaves_nothing_out_counts_nothing(size: int) -> None:
    assert limited(ROWS, size) == sorted(ROWS)
    assert limited([], size) == []


def test_parts_on_many_workers_choose_as_one_does_and_hold_few_pictures() -> None:
    combine = _SmallestPictures(5)
    parts = [combine.create_accumulator() for _ in range(7)]
    for index, ref in enumerate(random.Random(2).sample(ROWS, len(ROWS))):
        parts[index % 7] = combine.add_input(parts[index % 7], ref)
        assert len(parts[index % 7].refs) <= 10
    one = combine.create_accumulator()
    for ref in ROWS:
        one = combine.add_input(one, ref)
    merged = combine.extract_output(combine.merge_accumulators(parts))
    assert sorted(merged) == sorted(combine.extract_output(one))
