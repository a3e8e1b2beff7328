"""Counts add up field by field, and what is left out of the input by kind."""

from __future__ import annotations

import json

import pyarrow as pa
from support.data.rows import annotation

from moondream_beam.transforms.core.records import UNLISTED, ImageRef, Skipped
from moondream_beam.transforms.core.row_schema import annotation_schema
from moondream_beam.transforms.core.summary import MAX_SKIPPED_KINDS, OTHER, Count, SkippedCount, Summary, sum_counts


def left_out(kind: str, count: int, example: str) -> Count:
    return Count(skipped=(SkippedCount(kind, count, example),))


def test_a_kind_is_summed_and_its_example_is_the_first_by_name() -> None:
    parts = [left_out("b", 2, "y"), Count(pictures=1, inputs=3), left_out("a", 1, "z"), left_out("b", 5, "x")]
    expected = Count(pictures=1, inputs=3, skipped=(SkippedCount("a", 1, "z"), SkippedCount("b", 7, "x")))
    assert sum_counts(parts) == sum_counts(reversed(parts)) == expected


def test_many_kinds_become_other_things_and_no_thing_is_lost() -> None:
    parts = [left_out(f"files ending in .{number:03}", number, f"a.{number:03}") for number in range(250)]
    total = sum_counts(parts)
    *kinds, others = total.skipped
    assert [each.kind for each in kinds] == [f"files ending in .{number:03}" for number in range(MAX_SKIPPED_KINDS)]
    assert others == SkippedCount(OTHER, sum(range(MAX_SKIPPED_KINDS, 250)), f"a.{MAX_SKIPPED_KINDS:03}")


def test_folders_that_could_not_be_listed_are_never_other_things() -> None:
    parts = [left_out(f"kind {number:03}", 1, "a") for number in range(250)]
    total = sum_counts([*parts, left_out(f"{UNLISTED} (No such file or directory)", 1, "gone")])
    assert total.skipped[0] == SkippedCount(f"{UNLISTED} (No such file or directory)", 1, "gone")


def test_sums_of_sums_that_have_other_things_lose_nothing() -> None:
    halves = [
        sum_counts(left_out(f"kind {number:03}", 1, f"{number}") for number in range(start, 250, 2)) for start in (0, 1)
    ]
    total = sum_counts([*halves, left_out("kind 000", 4, "0")])
    assert sum(each.count for each in total.skipped) == 254
    assert len(total.skipped) == MAX_SKIPPED_KINDS + 1 and total.skipped[-1].kind == OTHER


def test_a_count_is_the_same_after_json() -> None:
    count = Count(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, (SkippedCount("a", 1, "x"), SkippedCount("b", 2, "y")))
    assert Count.from_json(json.loads(json.dumps(count))) == count


def test_only_a_reference_to_what_is_skipped_has_a_count_of_it() -> None:
    ref = ImageRef("/photos/*.txt", "notes.txt", skipped=Skipped("files ending in .txt", 3))
    assert Count.of_skipped(ref) == left_out("files ending in .txt", 3, "notes.txt")
    assert Count.of_skipped(ImageRef("/photos/a.jpg", "a.jpg")) == Count()


def test_pictures_beyond_a_limit_are_counted_as_input_and_as_left_out() -> None:
    ref = ImageRef("--limit 2", "c.jpg", skipped=Skipped("pictures beyond --limit 2", 7, is_input=True))
    assert Count.of_skipped(ref) == left_out("pictures beyond --limit 2", 7, "c.jpg")._replace(inputs=7)


def test_requests_are_the_pending_rows_that_share_no_answer() -> None:
    assert Count(pending=10, shared=8).requests == 2
    assert (Count(pending=10, shared=8).unit, Count(pending=10).unit) == ("rows", "requests")


def test_names_that_are_not_utf8_are_counted_with_escapes() -> None:
    ref = ImageRef("/p/*.t\udce9", "caf\udce9.t\udce9", skipped=Skipped("files ending in .t\udce9"))
    (found,) = Count.of_skipped(ref).skipped
    assert found == SkippedCount("files ending in .t\\udce9", 1, "caf\\udce9.t\\udce9")


def test_answers_that_end_at_a_limit_are_counted() -> None:
    whole, cut = annotation(), annotation(finish_reason="length")
    assert Summary().plus(whole).plus(cut).plus(cut).cut_off == 2
    table = pa.Table.from_pylist([row._asdict() for row in (whole, cut)], annotation_schema(()))
    assert Summary.from_annotations(table).cut_off == 1
