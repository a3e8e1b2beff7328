"""Rows, their schemas, and the ids of pictures and requests."""

from __future__ import annotations

import os
from hashlib import sha256

import pyarrow as pa
import pytest
from support.data.echo import Echo
from support.data.rows import NOW, annotation, failure

from moondream_beam.models.tasks import Box, Caption, Detect, Point, Query, Sampling, Spot
from moondream_beam.transforms.core.records import Annotation, Failure, ImageRef, Job, check_colour_profiles
from moondream_beam.transforms.core.row_schema import (
    ANNOTATION_SCHEMA,
    FAILURE_SCHEMA,
    annotation_schema,
    failure_schema,
    to_table,
)
from moondream_beam.transforms.io.containers.location import ImageCell, Member

REF = ImageRef("/photos/a.b.jpg", "a.b.jpg")
JOB = Job((Caption(),), Echo(), Sampling(), run="one")


def test_the_schemas_have_the_documented_columns() -> None:
    assert ", ".join(ANNOTATION_SCHEMA.names) == (
        "id, key, filename, uri, sha256, width, height, task, prompt, caption, objects, points, finish_reason, "
        "input_tokens, output_tokens, timings, backend, model, revision, run, created_at, hosted, "
        "byte_offset, byte_size, reasoning"
    )
    assert ", ".join(FAILURE_SCHEMA.names) == (
        "id, key, filename, uri, task, prompt, stage, error, message, retryable, attempts, backend, run, created_at, "
        "hosted, byte_offset, byte_size"
    )


@pytest.mark.parametrize(("row", "schema"), [(Annotation, ANNOTATION_SCHEMA), (Failure, FAILURE_SCHEMA)])
def test_rows_and_schemas_have_the_same_columns(row: type, schema: pa.Schema) -> None:
    assert [name for name in row._fields if name != "columns"] == schema.names


def test_only_answers_billing_and_byte_ranges_may_be_null() -> None:
    always = ["hosted", "byte_offset", "byte_size"]
    nullable = [field.name for field in ANNOTATION_SCHEMA if field.nullable]
    assert nullable == ["caption", "objects", "points", *always, "reasoning"]
    assert [field.name for field in FAILURE_SCHEMA if field.nullable] == always


def test_annotations_survive_arrow() -> None:
    rows = [
        annotation(),
        annotation(caption=None, objects=(Box(0, 0.25, 0.5, 1), Box(0.125, 0, 1, 1))),
        annotation(caption=None, points=(Spot(0.5, 0.25),)),
        annotation(caption=None, objects=(), points=None),
        annotation(caption="", prompt="Où est le chien ? 🐕"),
    ]
    table = to_table(rows, ANNOTATION_SCHEMA)
    table.validate(full=True)
    assert table.schema == ANNOTATION_SCHEMA
    back = table.to_pylist()
    assert [row["caption"] for row in back] == ["A dog.", None, None, None, ""]
    assert back[1]["objects"] == [
        {"x_min": 0, "y_min": 0.25, "x_max": 0.5, "y_max": 1},
        {"x_min": 0.125, "y_min": 0, "x_max": 1, "y_max": 1},
    ]
    assert [row["objects"] for row in back[2:4]] == [None, []]
    assert back[2]["points"] == [{"x": 0.5, "y": 0.25}]
    assert back[0]["timings"] == rows[0].timings._asdict()
    assert back[0]["created_at"] == NOW
    assert back[4]["prompt"] == "Où est le chien ? 🐕"


def test_columns_of_a_manifest_come_last_and_may_be_null() -> None:
    kept = (pa.field("split", pa.string()), pa.field("score", pa.float64()))
    table = to_table([annotation(columns=("train", 0.5)), annotation()], annotation_schema(kept))
    assert table.schema.names == [*ANNOTATION_SCHEMA.names, "split", "score"]
    assert table.select(["split", "score"]).to_pylist() == [
        {"split": "train", "score": 0.5},
        {"split": None, "score": None},
    ]


@pytest.mark.parametrize("names", [["caption"], ["a", "b", "a"], ["WIDTH"], ["text", "Text"]])
def test_a_duplicate_column_is_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="can't be kept"):
        annotation_schema([pa.field(name, pa.string()) for name in names])


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("ns"), pa.list_(pa.time64("us")), pa.map_(pa.string(), pa.int8()), pa.float16(), pa.null()],
    ids=str,
)
def test_a_column_of_a_type_on_which_readers_differ_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match="column x can't be kept as .*: convert it to "):
        annotation_schema([pa.field("x", kind)])


def test_with_rows_keeps_the_columns_numbers_and_names_of_the_remaining_rows() -> None:
    why, who = Query("Why?"), Query("Who?")
    ref = ImageRef("/a.jpg", "a.jpg", (why, who), (("because",), ("me",)))
    first, second = ref.rows(())
    assert (first.columns, first.number, first.filename) == (("because",), 0, "a.jpg")
    assert ref.with_rows([second]) == ref._replace(tasks=(who,), columns=(("me",),))
    again = second._replace(number=1, filename="b.jpg")
    both = ref.with_rows([second, again])
    assert both == ref._replace(tasks=(who, who), columns=(("me",), ("me",)), origins=((0, "a.jpg"), (1, "b.jpg")))
    assert both.rows(()) == [second, again]


def test_failures_survive_arrow() -> None:
    rows = [failure(), failure(retryable=False, message="größer\nals erlaubt")]
    expected = [{name: value for name, value in row._asdict().items() if name != "columns"} for row in rows]
    assert to_table(rows, FAILURE_SCHEMA).to_pylist() == expected


def test_failures_have_the_kept_columns_and_null_where_a_row_has_no_values() -> None:
    schema = failure_schema([pa.field("split", pa.string(), nullable=False)])
    table = to_table([failure(columns=("train",)), failure()], schema)
    assert table["split"].to_pylist() == ["train", None]


@pytest.mark.parametrize("name", ["message", "Stage", "caption"])
def test_a_kept_column_has_no_name_of_a_column_in_data_or_in_errors(name: str) -> None:
    with pytest.raises(ValueError, match=f"column {name} can't be kept"):
        annotation_schema([pa.field(name, pa.string())])


@pytest.mark.parametrize("schema", [ANNOTATION_SCHEMA, FAILURE_SCHEMA])
def test_no_rows_are_an_empty_table_with_the_schema(schema: pa.Schema) -> None:
    table = to_table([], schema)
    assert len(table) == 0
    assert table.schema == schema


def test_bytes_of_a_name_that_are_not_utf8_are_written_as_escapes() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    table = to_table([annotation(filename=name, uri=f"/{name}"), annotation()], ANNOTATION_SCHEMA)
    table.validate(full=True)
    assert table["filename"].to_pylist() == ["caf\\udce9.jpg", "a.jpg"]
    assert table["uri"].to_pylist() == ["/caf\\udce9.jpg", "/photos/a.jpg"]
    (text,) = to_table([failure(message=name)], FAILURE_SCHEMA)["message"].to_pylist()
    assert text == "caf\\udce9.jpg"


def test_a_key_is_20_hex_digits_of_the_uri_alone() -> None:
    assert REF.key == REF._replace(filename="other.jpg", tasks=(Query("Why?"),)).key
    assert REF.key != REF._replace(uri="/photos/c.jpg").key
    assert len(REF.key) == 20
    assert set(REF.key) <= set("0123456789abcdef")


def test_keys_and_ids_do_not_depend_on_the_place_in_a_file() -> None:
    member = Member("/a.tar", 512, 9, "x.jpg")
    ref = ImageRef(member.uri, "x.jpg", inside=member)
    alike = [ref._replace(inside=None), ref._replace(inside=member._replace(offset=2048))]
    assert {one.key for one in alike} == {ref.key} == {sha256(b"/a.tar#x.jpg").hexdigest()[:20]}
    assert {JOB.id_of(one, Caption()) for one in alike} == {JOB.id_of(ref, Caption())}
    assert ref.location == member and alike[0].location == "/a.tar#x.jpg"


def test_only_members_of_archives_have_a_byte_range() -> None:
    inside = Member("/a.tar", 512, 9, "x.jpg"), ImageCell("/a.parquet", "image", 1, 0), None
    assert [REF._replace(inside=one).byte_range for one in inside] == [(512, 9), (None, None), (None, None)]


def test_names_that_are_not_utf8_have_distinct_keys_and_ids() -> None:
    odd = [ImageRef(os.fsdecode(name), "") for name in (b"caf\xe9", b"caf\xe8", b"caf")]
    assert len({ref.key for ref in odd}) == len({JOB.id_of(ref, Caption()) for ref in odd}) == 3


@pytest.mark.parametrize(
    "other",
    [
        JOB.id_of(REF._replace(uri="/photos/b.jpg"), Caption()),
        JOB.id_of(REF, Caption("short")),
        JOB.id_of(REF, Query("normal")),
        JOB._replace(sampling=Sampling(temperature=0)).id_of(REF, Caption()),
        JOB._replace(sampling=Sampling(max_tokens=5)).id_of(REF, Caption()),
        JOB._replace(sampling=Sampling(top_p=0.5)).id_of(REF, Caption()),
        JOB._replace(sampling=Sampling(repetition_penalty=1.5)).id_of(REF, Caption()),
        JOB._replace(colour_profiles="srgb").id_of(REF, Caption()),
        JOB._replace(annotator=Echo(name="echoes")).id_of(REF, Caption()),
        JOB._replace(annotator=Echo(revision="2")).id_of(REF, Caption()),
    ],
)
def test_an_id_depends_on_all_that_decides_the_answer(other: str) -> None:
    assert other != JOB.id_of(REF, Caption())
    assert len(other) == 64


def test_tasks_with_the_same_prompt_have_distinct_ids() -> None:
    tasks = [Query("dog"), Detect("dog"), Point("dog"), Detect("dog", max_objects=1), Query("dog ")]
    assert len({JOB.id_of(REF, task) for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    "same",
    [
        JOB.id_of(REF._replace(filename="b.jpg"), Caption()),
        JOB.id_of(REF._replace(tasks=(Caption(), Query("Why?"))), Caption("normal")),
        JOB._replace(run="two").id_of(REF, Caption()),
        JOB._replace(tasks=(Query("Why?"), Caption())).id_of(REF, Caption()),
        JOB._replace(annotator=Echo(batch_size=9)).id_of(REF, Caption()),
    ],
)
def test_an_id_depends_on_nothing_else(same: str) -> None:
    assert same == JOB.id_of(REF, Caption())


def test_an_id_without_colour_profiles_is_that_of_earlier_versions() -> None:
    sampling = "Sampling(max_tokens=None, temperature=0.2, top_p=1.0, repetition_penalty=1.0)"
    parts = ["/photos/a.b.jpg", '{"length": "normal", "task": "caption"}', sampling, "echo", "1"]
    assert JOB.id_of(REF, Caption()) == sha256("".join(f"{part}\0" for part in parts).encode()).hexdigest()


def test_requests_about_the_same_bytes_differ_by_the_colour_profiles() -> None:
    assert JOB.request_id("ab", Caption()) != JOB._replace(colour_profiles="srgb").request_id("ab", Caption())


def test_an_unknown_choice_of_colour_profiles_is_refused() -> None:
    assert check_colour_profiles("srgb") == "srgb"
    with pytest.raises(ValueError, match="colour profiles 'p3': give ignore or srgb"):
        check_colour_profiles("p3")


def test_a_picture_has_its_own_tasks_or_those_of_the_job() -> None:
    assert [row.task for row in REF.rows(JOB.tasks)] == [Caption()]
    assert [row.task for row in REF._replace(tasks=(Query("Why?"),)).rows(JOB.tasks)] == [Query("Why?")]
