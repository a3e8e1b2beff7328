"""Tables are found in the folders of part files that writers make, and other formats are refused with the cure."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Query
from moondream_beam.transforms.core.records import ImageRef, Skipped
from moondream_beam.transforms.inputs.lists.table_files import TABLE_FORMATS, list_manifests, list_tables, partitions_of
from moondream_beam.transforms.inputs.lists.tables import schema_of
from moondream_beam.transforms.inputs.manifest import ReadManifests, read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns

Put = Callable[[str, bytes], None]


def parquet(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


LIST = parquet(url=["a.jpg"])


@pytest.fixture(params=["disk", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Put]:
    """Return the root of an empty folder or bucket, and a function that writes a file into it."""
    if request.param != "disk":
        bucket: Bucket = request.getfixturevalue("bucket_of")(request.param)
        return bucket.root, lambda name, content: (bucket.put(name, content), None)[1]

    def put(name: str, content: bytes) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    return str(tmp_path), put


SPARK = [
    "x.parquet/_SUCCESS",
    "x.parquet/._SUCCESS.crc",
    "x.parquet/_metadata",
    "x.parquet/_committed_4159",
    "x.parquet/.part-00000.snappy.parquet.crc",
    "x.parquet/part-00000.snappy.parquet",
    "x.parquet/split=test/part-00001.snappy.parquet",
    "x.parquet/.hidden/part-2.parquet",
]


def test_a_folder_of_spark_stands_for_its_parts(place: tuple[str, Put]) -> None:
    root, put = place
    for name in SPARK:
        put(name, LIST)
    parts = [f"{root}/x.parquet/part-00000.snappy.parquet", f"{root}/x.parquet/split=test/part-00001.snappy.parquet"]
    assert list(list_tables(f"{root}/x.parquet")) == list(list_tables(f"{root}/x.parquet/")) == parts
    assert list(list_tables(f"{root}/*.parquet")) == parts
    assert list(list_tables(f"{root}/x.parquet/**/*.parquet")) == parts


def test_other_files_and_drafts_in_a_folder_are_counted(place: tuple[str, Put]) -> None:
    root, put = place
    for name in ("lists/a.csv", "lists/b.txt", "lists/c.txt", "lists/_temporary/0/part-0.parquet", "lists/_SUCCESS"):
        put(name, b"url\na.jpg\n")
    found, *others = list_tables(f"{root}/lists")
    assert found == f"{root}/lists/a.csv"
    assert set(others) == {
        ImageRef(f"{root}/lists/*.txt", "b.txt", skipped=Skipped("files ending in .txt", 2)),
        ImageRef(
            f"{root}/lists/_temporary/0/*.parquet",
            "_temporary/0/part-0.parquet",
            skipped=Skipped("files ending in .parquet"),
        ),
    }


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_an_object_that_consoles_create_for_a_folder_is_no_table(bucket_of: Callable[[str], Bucket], kind: str) -> None:
    bucket = bucket_of(kind)
    bucket.put("x.parquet/", b"")
    bucket.put("x.parquet/part-0.parquet", LIST)
    assert list(list_tables(f"{bucket.root}/x.parquet/")) == [f"{bucket.root}/x.parquet/part-0.parquet"]
    assert list(list_tables(f"{bucket.root}/x.parquet")) == [f"{bucket.root}/x.parquet/part-0.parquet"]


def test_a_pipeline_reads_a_folder_and_carries_what_it_leaves_out_once(tmp_path: Path) -> None:
    (tmp_path / "x.parquet" / "split=a").mkdir(parents=True)
    (tmp_path / "x.parquet" / "split=a" / "part-0.parquet").write_bytes(LIST)
    (tmp_path / "x.parquet" / "split=a" / "notes.txt").touch()
    columns = check_columns([f"{tmp_path}/x.parquet"], Columns("url", tasks=(Query("{split}?"),)), [])
    patterns = [f"{tmp_path}/x.parquet", f"{tmp_path}/*.parquet"]
    refs = collect(lambda pipeline: pipeline | ReadManifests(patterns, columns))
    picture, text = sorted(refs, key=lambda ref: ref.skipped is not None)
    assert picture.uri == f"{tmp_path}/x.parquet/split=a/a.jpg" and picture.tasks == (Query("a?"),)
    assert text.skipped == Skipped("files ending in .txt")


@pytest.mark.parametrize("marker", ["_delta_log/0.json", "metadata/v1.metadata.json", ".hoodie/x", "_spark_metadata/0"])
@pytest.mark.parametrize("pattern", ["table", "table/*.parquet", "table/a.parquet", "table/day=1/data/b.parquet"])
def test_tables_that_hold_deleted_rows_are_refused_with_the_cure(tmp_path: Path, marker: str, pattern: str) -> None:
    for name in ("a.parquet", "day=1/data/b.parquet", marker):
        (tmp_path / "table" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "table" / name).write_bytes(LIST)
    with pytest.raises(ValueError, match=f"manifest {tmp_path}/table: this is ") as refused:
        check_columns([f"{tmp_path}/{pattern}"], Columns("url"), [])
    kind, cure = TABLE_FORMATS[marker.split("/")[0]]
    assert kind in str(refused.value) and cure in str(refused.value)


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
@pytest.mark.parametrize("marker", ["_delta_log/0.json", "metadata/00000-1f.metadata.json"])
def test_they_are_refused_in_buckets(bucket_of: Callable[[str], Bucket], kind: str, marker: str) -> None:
    bucket = bucket_of(kind)
    for name in ("a.parquet", "data/day=1/b.parquet", marker):
        bucket.put(f"table/{name}", LIST)
    for pattern in ("table", "table/*.parquet", "table/data/day=1/b.parquet"):
        with pytest.raises(ValueError, match=f"manifest {bucket.root}/table: this is an? "):
            list(list_tables(f"{bucket.root}/{pattern}"))


def test_a_folder_that_is_only_named_metadata_and_a_text_beside_a_log_are_no_reason_to_refuse(tmp_path: Path) -> None:
    for name in ("a.parquet", "metadata/notes.json", "delta/_delta_log/0.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(LIST)
    (tmp_path / "delta/rows.csv").write_text("url\na.jpg\n")
    assert list(list_tables(f"{tmp_path}/a.parquet")) == [f"{tmp_path}/a.parquet"]
    assert list(list_tables(f"{tmp_path}/delta/rows.csv")) == [f"{tmp_path}/delta/rows.csv"]


def test_partitions_become_columns_that_prompts_can_name_and_rows_keep(tmp_path: Path) -> None:
    for name in ("kind=shoe%2Fboot/year=2024/a.parquet", "kind=__HIVE_DEFAULT_PARTITION__/year=2025/b.parquet"):
        (tmp_path / "x.parquet" / name).parent.mkdir(parents=True)
        (tmp_path / "x.parquet" / name).write_bytes(parquet(url=["a.jpg"], image=[b"x"]))
    for given in (Columns("url", tasks=(Query("Is it a {kind}?"),)), Columns(image="image", tasks=(Query("{kind}"),))):
        columns = check_columns([f"{tmp_path}/x.parquet"], given, ["year", "kind"])
        assert [field.type for field in columns.kept] == [pa.string()] * 2
        null, boot = [ref for path in list_manifests(f"{tmp_path}/x.parquet") for ref in read_manifest(path, columns)]
        assert [problem.message.count("column kind is empty") for problem in null.problems] == [1]
        assert boot.columns == (("2024", "shoe/boot"),) and "shoe/boot" in boot.tasks[0].prompt


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_text_and_json_below_partitions_have_their_columns(tmp_path: Path, name: str) -> None:
    (tmp_path / "n=1" / "m=2").mkdir(parents=True)
    content = "url,n\na.jpg,7\n" if name == "a.csv" else '{"url": "a.jpg", "n": 7}\n'
    (tmp_path / "n=1" / "m=2" / name).write_text(content)
    columns = check_columns([f"{tmp_path}/n=1"], Columns("url", tasks=(Query("{n} of {m}"),)), ["m"])
    (ref,) = read_manifest(f"{tmp_path}/n=1/m=2/{name}", columns)
    assert ref.tasks == (Query("7 of 2"),) and ref.columns == (("2",),)


def test_a_column_of_the_file_goes_before_a_partition_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "n=1").mkdir()
    (tmp_path / "n=1" / "a.parquet").write_bytes(parquet(url=["a.jpg"], n=[7]))
    columns = check_columns([f"{tmp_path}/n=1/a.parquet"], Columns("url", tasks=(Query(),)), ["n"])
    (ref,) = read_manifest(f"{tmp_path}/n=1/a.parquet", columns)
    assert columns.kept == (pa.field("n", pa.int64()),) and partitions_of(f"{tmp_path}/n=1/a.parquet") == {"n": "1"}
    assert not ref.problem and ref.columns == ((7,),)


def test_linked_folders_are_read_once_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.csv").touch()
    (tmp_path / "lists" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "lists" / "back").symlink_to(tmp_path)
    assert [os.path.realpath(str(path)) for path in list_tables(f"{tmp_path}/lists")] == [f"{tmp_path}/other/b.csv"]


def test_an_empty_folder_and_a_folder_matched_by_a_glob_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lists" / "more").mkdir(parents=True)
    with pytest.raises(ValueError, match="no table in this folder"):
        check_columns([f"{tmp_path}/lists"], Columns("url"), [])
    with pytest.raises(ValueError, match=f"manifest {tmp_path}/lists/more: this is a folder"):
        list(list_tables(f"{tmp_path}/lists/*"))
    assert list(list_tables(f"{tmp_path}/lists/**")) == []


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.xlsx", "save its sheet as CSV in UTF-8"),
        ("a.csv.zip", "unpack it, and give the table inside"),
        ("a.csv.bz2", "only gzip is decompressed here"),
        ("a.json", "one JSON object on each line"),
        ("a.txt", "rename it to .csv or .tsv"),
        ("a.pq", "rename it to .parquet"),
        ("a.orc", "write the table as Parquet"),
        ("a.other", "rename or convert it"),
    ],
)
def test_files_of_other_kinds_are_refused_with_the_cure(tmp_path: Path, name: str, cure: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"manifest {tmp_path}/{name}: its name ends with none of .csv") as refused:
        list(list_tables(f"{tmp_path}/{name}"))
    assert cure in str(refused.value)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "cure"),
    [
        ("a.csv", zipped(), "save its sheet as CSV"),
        ("a.jsonl", zipped(), "unpack it"),
        ("a.csv", gzip.compress(b"url\n", mtime=0), "let its name end with .gz"),
        ("a.csv", LIST, "rename it to .parquet"),
        ("a.tsv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        ("a.csv", b"<!DOCTYPE html><html>", "download the file itself"),
        ("a.jsonl", b'\xef\xbb\xbf[{"url": "a.jpg"}]', "one object on each line"),
        ("a.jsonl", b'[\n  {"url": "a.jpg"}\n]', "one object on each line"),
    ],
)
def test_content_of_another_kind_is_refused_with_the_cure(tmp_path: Path, name: str, content: bytes, cure: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"manifest {tmp_path}/{name}: its content is ") as refused:
        schema_of(str(tmp_path / name))
    assert cure in str(refused.value)
