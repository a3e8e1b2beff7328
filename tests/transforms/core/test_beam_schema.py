"""References, annotations and failures convert to Beam rows, and rows to references."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that
from apache_beam.typehints.row_type import RowTypeConstraint
from support.data.rows import annotation, failure

from moondream_beam import Box, Caption, Detect, Failure, ImageRef, Query, Spot
from moondream_beam.models.hosted.payment.billing import Billing
from moondream_beam.transforms.core.beam_schema import (
    AsRows,
    RefsToRows,
    TaskSpec,
    build_task_spec,
    row_type,
    to_ref,
)
from moondream_beam.transforms.core.records import UNLISTED, Skipped
from moondream_beam.transforms.core.row_schema import ANNOTATION_SCHEMA, FAILURE_SCHEMA, to_table
from moondream_beam.transforms.io.containers.location import ImageCell, Member
from moondream_beam.transforms.io.uris import display_uri
from moondream_beam.transforms.output.reader import read_failures

SPLIT, LABEL = pa.field("split", pa.string()), pa.field("label", pa.int32())


def check_row(element: Any, transform: beam.PTransform, check: Callable[[Any], None]) -> None:
    """Call ``check`` with the row that a transform makes of an element, after a reshuffle has encoded it."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([element]) | transform
        assert isinstance(rows.element_type, RowTypeConstraint)
        assert_that(rows | beam.Reshuffle(), lambda rows: check(*rows))


def test_an_annotation_keeps_all_its_fields():
    boxes, spots = (Box(0.0, 0.25, 0.5, 1.0), Box(0.5, 0.5, 0.75, 1.0)), (Spot(0.5, 0.25),)
    whole = annotation(objects=boxes, points=spots, hosted=Billing("job", 2.0, None, True, None), columns=("train", 7))
    names = [*ANNOTATION_SCHEMA.names, "split", "label"]

    def check(row: Any) -> None:
        assert row._fields == tuple(names)
        assert [tuple(box) for box in row.objects] == [tuple(box) for box in boxes]
        assert row.points[0].y == 0.25 and row.timings.total_ms == 8.0
        assert (row.hosted.job, row.hosted.usd, row.split, row.label) == ("job", None, "train", 7)
        assert row.created_at == "2030-01-02T03:04:05.678+00:00"

    check_row(whole, AsRows(columns=[SPLIT, LABEL]), check)


def test_an_annotation_without_boxes_billing_or_columns_has_nulls():
    def check(row: Any) -> None:
        assert [row.caption, row.objects, row.points, row.hosted, row.split] == [None] * 5

    check_row(annotation(caption=None), AsRows(columns=[SPLIT]), check)


def test_a_failure_keeps_all_its_fields():
    names = FAILURE_SCHEMA.names

    def check(row: Any) -> None:
        assert row._fields == tuple(names)
        assert (row.filename, row.stage, row.message, row.retryable) == ("\\udcff.jpg", "fetch", "gone", True)

    check_row(failure(filename="\udcff.jpg"), AsRows(Failure), check)


def test_rows_are_written_by_the_parquet_sink_of_beam(tmp_path):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([annotation(objects=(Box(0.0, 0.25, 0.5, 1.0),))])
        rows | AsRows() | beam.io.WriteToParquet(str(tmp_path / "rows"), file_name_suffix=".parquet")
        failures = pipeline | "Failures" >> beam.Create([failure()])
        (
            failures
            | "As rows of failures" >> AsRows(Failure)
            | "Write" >> beam.io.WriteToParquet(str(tmp_path / "errors"))
        )
    (row,) = pq.read_table(next(tmp_path.glob("rows-*.parquet"))).to_pylist()
    assert list(row) == ANNOTATION_SCHEMA.names
    assert row["objects"] == [{"x_min": 0.0, "y_min": 0.25, "x_max": 0.5, "y_max": 1.0}]
    assert pq.read_schema(next(tmp_path.glob("errors-*"))).names == FAILURE_SCHEMA.names


def test_rows_of_the_other_kind_are_refused_with_the_cure():
    with pytest.raises(TypeError, match=r"write AsRows\(Failure\)"), beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([failure()]) | AsRows()
    with pytest.raises(ValueError, match="give Annotation"):
        AsRows(ImageRef)


MEMBER, CELL = Member("s3://b/a.tar", 512, 9, "x.png"), ImageCell("/a.parquet", "image", 12, 3)


@pytest.mark.parametrize(
    "ref",
    [
        ImageRef("/a.png", "a.png"),
        ImageRef("l.csv#3", "l.csv#3", problem="l.csv#3: empty"),
        ImageRef("s3://b/a.tar#x.png", "x.png", inside=MEMBER),
        ImageRef("/a.parquet#image/12/x.png", "x.png", inside=CELL),
    ],
)
def test_a_reference_survives_a_row(ref):
    check_row(ref, RefsToRows(), lambda row: _assert_equal(to_ref(row, TaskSpec((Query(),)), "/"), ref))


def test_a_member_whose_row_lost_its_byte_range_says_what_to_pass_on():
    ref = to_ref(beam.Row(uri="set.tar#x.png", filename="x.png"), TaskSpec((Query(),)), "/data")
    assert (ref.uri, ref.inside) == ("/data/set.tar#x.png", None)
    assert "give its byte_offset and byte_size" in ref.problem


def test_fields_that_say_where_an_image_lies_are_whole_numbers():
    row_type = RowTypeConstraint.from_fields([("uri", str), ("byte_offset", float)])
    rows = beam.Pipeline(runner="FnApiRunner") | beam.Create([1]) | beam.Map(lambda _: None).with_output_types(row_type)
    with pytest.raises(ValueError, match="field byte_offset must be a whole number"):
        build_task_spec(rows, [Query()], [])


def test_what_the_input_leaves_out_makes_no_row():
    left_out = ImageRef("/photos/*.txt", "notes.txt", skipped=Skipped("files ending in .txt"))
    shut = ImageRef("/photos/shut", "shut", skipped=Skipped(f"{UNLISTED} (Permission denied)"))
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        rows = pipeline | beam.Create([left_out, ImageRef("/photos/a.png", "a.png"), shut]) | RefsToRows()
        told = rows | beam.Map(lambda row: (row.uri, "Permission denied" in (row.problem or "")))
        # No plan counts the rows. A folder that could not be listed must not be lost.
        assert_that(told, lambda told: _assert_equal(sorted(told), [("/photos/a.png", False), ("/photos/shut", True)]))


def _assert_equal(found: Any, expected: Any) -> None:
    assert found == expected


def test_fields_are_filled_into_prompts_and_kept():
    spec = TaskSpec((Detect("{thing}"), Query("Is it {thing}?")), (LABEL,))
    ref = to_ref(beam.Row(uri="a.png", thing="red", label=3), spec, "/photos")
    assert ref == ImageRef("/photos/a.png", "a.png", (Detect("red"), Query("Is it red?")), ((3,), (3,)))
    (once,) = to_ref(beam.Row(uri="a.png", a="x", b="x"), TaskSpec((Query("{a}"), Query("{b}"))), "/").tasks
    assert once == Query("x")


def test_a_reference_has_no_tasks_if_no_prompt_names_a_field():
    spec = TaskSpec((Query("Is {{this}} it?"), Caption()))
    assert to_ref(beam.Row(uri="s3://b/a.png", filename="x/a.png"), spec, "/") == ImageRef("s3://b/a.png", "x/a.png")
    assert spec.job_tasks() == (Query("Is {this} it?"), Caption())


@pytest.mark.parametrize(
    "row, problem",
    [
        (beam.Row(uri=None, thing="x"), "field uri is empty"),
        (beam.Row(uri="", thing="x"), "field uri is empty"),
        (beam.Row(uri="ftp://h/a.png", thing="x"), "ftp:// is not supported"),
        (beam.Row(uri="http://[h/a.png", thing="x"), "is not a valid URL"),
        (beam.Row(uri="file://[h/a.png", thing="x"), "Invalid"),
        (beam.Row(uri="http://[h/a.png", thing="x", problem="told before"), "told before"),
        (beam.Row(uri="a.png", thing="x", problem="told before"), "told before"),
    ],
)
def test_an_invalid_row_becomes_a_reference_with_a_problem(row, problem):
    ref = to_ref(row, TaskSpec((Query("Is it {thing}?"),)), "/")
    (wanted,) = ref.rows(())
    assert wanted.problem is not None and problem in wanted.problem.message and ref.has_nothing_to_ask
    assert wanted.problem.prompt == "Is it x?"


def test_an_empty_field_in_a_prompt_takes_only_its_own_task():
    ref = to_ref(beam.Row(uri="a.png", thing=None), TaskSpec((Caption(), Query("{thing}"))), "/")
    caption, question = ref.rows(())
    assert caption.problem is None and not ref.has_nothing_to_ask
    assert question.problem is not None and "column thing is empty" in question.problem.message


def test_a_problem_does_not_contain_the_password():
    ref = to_ref(beam.Row(uri="ftp://me:hunter2@h/a.png?token=hunter2"), TaskSpec((Query(),)), "/")
    assert ref.problem and "hunter2" not in ref.problem + display_uri(ref.uri)


def test_rows_without_a_uri_have_distinct_uris():
    spec = TaskSpec((Query(),), (LABEL,))
    first, second = (to_ref(beam.Row(uri=None, label=label), spec, "/") for label in (1, 2))
    assert first.uri != second.uri and first.columns == ((1,),)


@pytest.mark.parametrize(
    "field, message",
    [
        (pa.field("taken", pa.date32()), "column taken is date32.day.: convert it to text, numbers, booleans or bytes"),
        (pa.field("big", pa.uint64()), "column big is uint64"),
        (pa.field("my column", pa.string()), "'my column' can't be a field"),
        (pa.field("_hidden", pa.string()), "'_hidden' can't be a field"),
        (pa.field("uri", pa.string()), "column uri: the rows already have a field of this name"),
    ],
)
def test_a_column_of_an_unsupported_type_or_name_is_refused(field, message):
    with pytest.raises(ValueError, match=message):
        RefsToRows([field])


def test_elements_without_fields_are_refused():
    pipeline = beam.Pipeline(runner="FnApiRunner")
    texts = pipeline | beam.Create(["a.png"])
    with pytest.raises(ValueError, match="the input has no rows with named fields"):
        build_task_spec(texts, [Query()], [])
    nested = (
        pipeline
        | "Nested" >> beam.Create([1])
        | beam.Map(lambda _: None).with_output_types(
            RowTypeConstraint.from_fields([("uri", str), ("inner", row_type(pa.schema([SPLIT])))])
        )
    )
    with pytest.raises(ValueError, match="field inner can't be kept"):
        build_task_spec(nested, [Query()], ["inner"])


def test_read_failures_returns_those_of_one_run(tmp_path):
    os.mkdir(tmp_path / "errors")
    hosted = Billing("job", 1.0, 0.5, False, None)
    for run in ("one", "one-2"):
        rows = [failure(run=run, hosted=hosted), failure(run=run, id="j", filename="b.jpg")]
        pq.write_table(to_table(rows, FAILURE_SCHEMA), tmp_path / "errors" / f"part-{run}-00000.parquet")
    found = list(read_failures(str(tmp_path), "one"))
    assert [(row.id, row.run, row.hosted) for row in found] == [("i", "one", hosted), ("j", "one", None)]
    assert list(read_failures(str(tmp_path), "three")) == []
