"""DataFrames on a real cluster: as the input of the transform and of the job, with the ids of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from support.data.echo import Echo
from support.running.output_ids import ids

from moondream_beam import Caption, Query
from moondream_beam.models.tiny.scenes import draw
from moondream_beam.pipelines.spark import annotate, annotate_on_spark

pytestmark = [pytest.mark.slow, pytest.mark.spark]
NAMES = ("a b.png", "c#d.png", "e%20f.png", "g%h.png", "\u00fc.png", "i?j.png", "k[l].png")


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw pictures with odd names, and write one that is no picture."""
    folder = tmp_path_factory.mktemp("odd names")
    for seed, name in enumerate(NAMES):
        draw(seed).image.resize((48, 36)).save(folder / name)
    (folder / "broken %41.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def files(spark: Any, odd_names: Path) -> Any:
    return spark.read.format("binaryFile").load(str(odd_names)).select("*", "_metadata")


def ids_of(rows: Any) -> list[str]:
    return sorted(row.id for row in rows.select("id").collect())


def test_a_picture_has_one_id_however_a_dataframe_names_it(spark, files, odd_names, tmp_path):
    record = annotate_on_spark(spark, str(odd_names), [Caption()], Echo(), str(tmp_path / "out"))
    assert (record["counts"]["annotations"], record["counts"]["failures"]) == (7, 1)
    expected = sorted(ids(tmp_path / "out"))
    by_bytes = annotate(files, [Caption()], Echo(), path_column="path", content_column="content")
    assert ids_of(by_bytes) == expected
    assert ids_of(annotate(files, [Caption()], Echo(), path_column="path")) == expected
    assert ids_of(annotate(files, [Caption()], Echo(), path_column="_metadata.file_path")) == expected


def test_answers_and_failures_are_told_apart_and_keep_columns(files):
    tasks = [Caption(), Query("Has it {length} bytes?")]
    rows = annotate(
        files, tasks, Echo(), path_column="path", content_column="content", keep_columns=["length", "path=source"]
    )
    found = rows.collect()
    assert len(found) == 16 and {row.kind for row in found} == {"data", "errors"}
    for row in found:
        assert row.source == f"file:{row.uri}"
        if row.kind == "data":
            assert row.caption and row.sha256 and row.stage is None
            assert row.task == "caption" or row.prompt == f"Has it {row.length} bytes?"
        else:
            assert (row.filename, row.stage, row.caption) == ("broken %41.png", "decode", None)
            assert row.length == len(b"no picture")


def test_a_dataframe_is_an_input_of_the_resumable_job(spark, files, tmp_path):
    out = tmp_path / "out"
    options: dict[str, Any] = {"keep_columns": ["length", "modificationTime"]}
    tasks = [Query("Has it {length} bytes?")]
    record = annotate_on_spark(spark, files, tasks, Echo(), str(out), **options)
    assert record["balanced"] and record["counts"]["pending"] == 8
    table = ds.dataset(out / "data", format="parquet").to_table().to_pylist()
    assert {row["prompt"] for row in table} == {f"Has it {row['length']} bytes?" for row in table}
    again = annotate_on_spark(spark, files, tasks, Echo(), str(out), limit=3, **options)
    assert (again["counts"]["done"], again["counts"]["pending"]) == (3, 0)


def test_a_table_of_the_catalog_is_an_input(spark, files, tmp_path):
    files.select("path", "length").write.option("path", str(tmp_path / "table")).saveAsTable("photos")
    try:
        table, out = spark.table("photos"), str(tmp_path / "out")
        record = annotate_on_spark(spark, table, [Caption()], Echo(), out, keep_columns=["length"])
    finally:
        spark.sql("DROP TABLE photos")
    assert record["balanced"] and (record["counts"]["annotations"], record["counts"]["failures"]) == (7, 1)


def test_a_manifest_with_equal_pictures_is_annotated_and_errors_are_asked_again(spark, odd_names, tmp_path):
    copy, manifest = tmp_path / "copy.png", tmp_path / "photos.csv"
    copy.write_bytes((odd_names / "a b.png").read_bytes())
    manifest.write_text("url,label\n" + "".join(f"{path},x\n" for path in (copy, *sorted(odd_names.iterdir()))))
    options: dict[str, Any] = {"manifest": str(manifest), "keep_columns": ["label"], "dedup": True}
    size, out = (48, 36), str(tmp_path / "out")
    first = annotate_on_spark(spark, None, [Caption()], Echo(faults_on=(size,)), out, **options)
    assert first["balanced"] and (first["counts"]["annotations"], first["counts"]["failures"]) == (0, 9)
    again = annotate_on_spark(spark, None, [Caption()], Echo(), out, retry_errors=True, **options)
    assert again["balanced"] and (again["counts"]["annotations"], again["counts"]["failures"]) == (8, 1)
    # The eighth answer is a copy, because two pictures are equal.
    tokens = ds.dataset(tmp_path / "out" / "data", format="parquet").to_table()["output_tokens"].to_pylist()
    assert sorted(tokens) == [0, *[3] * 7]


def test_columns_that_are_missing_or_of_another_type_are_named(files):
    for columns, message in (
        ({}, "path_column"),
        ({"path_column": "nowhere"}, "nowhere"),
        ({"path_column": "length"}, "length is bigint"),
        ({"content_column": "path"}, "path is string"),
        ({"path_column": "path", "keep_columns": ["nothing"]}, "nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            annotate(files, [Caption()], Echo(), **columns)


def test_batches_with_many_pictures_in_memory_are_refused(spark, files):
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    spark.conf.set(name, "10000")
    try:
        with pytest.raises(ValueError, match=f"{name} is 10000"):
            annotate(files, [Caption()], Echo(), content_column="content")
        annotate(files, [Caption()], Echo(), path_column="path")
    finally:
        spark.conf.set(name, before)
