"""Rows of DataFrames as references: paths as Spark writes them become the URIs that the command makes of the files."""

from __future__ import annotations

import pyarrow as pa
import pytest

from moondream_beam import Query
from moondream_beam.pipelines.spark.rows import CONTENT, PATH, Content, Source, refs_of, uri_of
from moondream_beam.transforms.core.records import Job


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("file:/a b/c#d%20e?.png", "/a b/c#d%20e?.png"),
        ("file:///a%20b/%C3%BC.png", "file:///a%20b/%C3%BC.png"),
        ("s3a://bucket/a%20b.png", "s3://bucket/a%20b.png"),
        ("s3n://bucket/a b.png", "s3://bucket/a b.png"),
        ("gs://bucket/a.png", "gs://bucket/a.png"),
        ("abfss://photos@account.dfs.core.windows.net/a/b.png", "azfs://account/photos/a/b.png"),
        ("wasbs://photos@account.blob.core.windows.net/b.png", "azfs://account/photos/b.png"),
        ("dbfs:/mnt/a.png", "/dbfs/mnt/a.png"),
        ("dbfs:/Volumes/main/a.png", "/Volumes/main/a.png"),
        ("https://example.org/a%20b.png", "https://example.org/a%20b.png"),
        ("/a/b%20c.png", "/a/b%20c.png"),
    ],
)
def test_a_path_of_spark_becomes_the_uri_of_the_picture(path, uri):
    assert uri_of(path) == uri


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("file:/a%20b/e%2520f.png", "/a b/e%20f.png"),
        ("file:///a%20b.png", "file:///a%20b.png"),
        ("s3a://bucket/a%20b.png", "s3://bucket/a b.png"),
        ("https://example.org/a%20b.png", "https://example.org/a%20b.png"),
    ],
)
def test_the_path_of_the_metadata_is_decoded_once(path, uri):
    assert uri_of(path, escaped=True) == uri


def refs(source: Source, **columns: list):
    return [ref for ref, _ in refs_of(pa.RecordBatch.from_pydict(columns), source)]


def test_raw_and_escaped_names_of_a_file_have_one_id():
    task, names = Query(), ["file:/x/ü %23#.png", "file:///x/%C3%BC%20%2523%23.png", "/x/./ü %23#.png"]
    found = refs(Source((task,), "path", None), **{PATH: names})
    job = Job((task,), None)  # type: ignore[arg-type]
    job = job._replace(annotator=type("Named", (), {"name": "a", "revision": "1"})())
    assert {ref.uri for ref in found} == {"/x/ü %23#.png"}
    assert len({job.id_of(ref, task) for ref in found}) == 1


def test_prompts_are_filled_in_and_columns_are_kept():
    source = Source((Query("Is this {name}?"),), "path", None, (("name", "label"),))
    (ref,) = refs(source, **{PATH: ["/a.png"], "name": ["a dog"]})
    assert [task.prompt for task in ref.tasks] == ["Is this a dog?"]
    assert ref.columns == (("a dog",),)


@pytest.mark.parametrize("path", [None, "", "ftp://host/a.png"])
def test_a_row_without_a_usable_path_fails_alone(path):
    bad, good = refs(Source((Query(),), "photo", None), **{PATH: pa.array([path, "/a.png"], pa.string())})
    assert ("ftp:// is not supported" if path else "column photo is empty") in bad.problem and not good.problem


def test_bytes_are_handed_out_once():
    source = Source((Query(),), "path", "content")
    (ref,) = refs(source, **{PATH: ["file:/a.png"], CONTENT: [b"bytes"]})
    assert ref.uri == "/a.png" and isinstance(ref.location, Content)
    assert ref.location.take() == b"bytes"
    with pytest.raises(ValueError, match="empty"):
        ref.location.take()


def test_a_row_without_bytes_fails_and_names_the_column():
    (ref,) = refs(Source((Query(),), "path", "content"), **{PATH: ["/a.png"], CONTENT: pa.array([None], pa.binary())})
    assert "content" in ref.problem


def test_bytes_without_a_path_are_named_by_their_digest():
    source = Source((Query(),), None, "content")
    one, two, same = refs(source, **{CONTENT: [b"a", b"b", b"a"]})
    assert one.key == same.key != two.key
