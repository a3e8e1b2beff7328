"""Addresses are found under the spellings that lists have, and others are refused with the cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Query
from moondream_beam.transforms.inputs.lists.addresses import clean_address, path_hint
from moondream_beam.transforms.inputs.manifest import read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for name in ("img/1.jpg", "img/2.jpg", "img/odd ", "img/a\\b.jpg", '"3.jpg"'):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (" img/1.jpg", "img/1.jpg"),
        ("img/1.jpg\r\n", "img/1.jpg"),
        ("\ufeffimg/1.jpg\xa0", "img/1.jpg"),
        ('"img/1.jpg"', "img/1.jpg"),
        (" gone.jpg ", "gone.jpg"),
        (" https://h/a.jpg ", "https://h/a.jpg"),
        ('"s3://b/a.jpg"', "s3://b/a.jpg"),
        ("img\\2.jpg", "img/2.jpg"),
        (" img\\2.jpg", "img/2.jpg"),
        ("img/odd ", "img/odd "),
        ("img/a\\b.jpg", "img/a\\b.jpg"),
        ('"3.jpg"', '"3.jpg"'),
        ("s3://b/a\\b.jpg", "s3://b/a\\b.jpg"),
        ("set.v1/gone.jpg", "set.v1/gone.jpg"),
    ],
)
def test_the_file_that_a_list_means_is_found(folder: Path, given: str, address: str) -> None:
    assert clean_address(given, str(folder)) == address


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("img\\9.jpg", "write slashes"),
        ("C:\\img\\1.jpg", "a path on a Windows machine"),
        ("c:/img/1.jpg", "a path on a Windows machine"),
        ("\\\\server\\img\\1.jpg", "a path on a Windows machine"),
        ("//pictures.example/a.jpg", "write https://pictures.example/a.jpg"),
        ("www.pictures.example/a.jpg", "write https://www.pictures.example/a.jpg"),
        (" Example.com:8080/a.jpg", "write https://Example.com:8080/a.jpg"),
        ("cdn.site.co.uk/a.jpg?s=1", "write https://cdn.site.co.uk/a.jpg"),
    ],
)
def test_a_form_that_names_no_file_is_refused_with_the_cure(folder: Path, given: str, cure: str) -> None:
    with pytest.raises(ValueError, match="no such file") as refused:
        clean_address(given, str(folder))
    assert cure in str(refused.value) and str(refused.value).startswith(given.strip())


def test_a_folder_that_is_named_like_a_host_is_a_folder(folder: Path) -> None:
    (folder / "www.pictures.example").mkdir()
    assert clean_address("www.pictures.example/gone.jpg", str(folder)) == "www.pictures.example/gone.jpg"
    assert clean_address("www.pictures.example/a.jpg", "s3://bucket/mirror") == "www.pictures.example/a.jpg"


@pytest.mark.parametrize(
    "path", ["a.jpg", "/a b/c.jpg", "https://h/a\\b.jpg", "s3://b/www.x.com/a.jpg", "file:///a\\b"]
)
def test_usual_paths_have_no_hint(path: str) -> None:
    assert path_hint(path) == ""


def test_rows_with_odd_addresses_are_references_or_problems_with_file_and_line(folder: Path) -> None:
    (folder / "list.csv").write_text("id,url\n1, img/1.jpg \n2,img\\2.jpg\n3,img\\9.jpg\n4, https://h/a.jpg\n")
    first, second, third, fourth = read_manifest(f"{folder}/list.csv", Columns("url"))
    assert [ref.uri for ref in (first, second, fourth)] == [
        f"{folder}/img/1.jpg",
        f"{folder}/img/2.jpg",
        "https://h/a.jpg",
    ]
    assert [ref.filename for ref in (first, second)] == ["img/1.jpg", "img/2.jpg"]
    assert third.uri == "img\\9.jpg" and third.problem.startswith("list.csv#4: ") and "write slashes" in third.problem


def test_a_relative_path_with_backslashes_in_a_bucket_is_refused(bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("s3")
    path = bucket.put("lists/a.csv", b"url\nimg\\1.jpg\n")
    (ref,) = read_manifest(path, Columns("url"))
    assert ref.uri == "img\\1.jpg" and ref.problem.startswith("a.csv#2: ") and "write slashes" in ref.problem


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.dictionary(pa.int8(), pa.binary())])
def test_text_that_parquet_stores_as_bytes_is_decoded(tmp_path: Path, kind: pa.DataType) -> None:
    def column(*values: bytes) -> pa.Array:
        return pa.array(values, pa.binary()).cast(kind)

    table = {"url": column(b"a.jpg", b"caf\xe9.jpg", b"c.jpg"), "what": column("Tür".encode(), b"x", b"\xff")}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    columns = check_columns([f"{tmp_path}/a.parquet"], Columns("url", "what", (Query("A {what}?"),)), [])
    first, second, third = read_manifest(f"{tmp_path}/a.parquet", columns)
    assert (first.uri, first.filename, first.tasks) == (f"{tmp_path}/a.jpg", "Tür", (Query("A Tür?"),))
    assert second.uri == f"{tmp_path}/caf\udce9.jpg" and "column what is not UTF-8" in third.problem


def test_the_message_about_a_missing_column_shows_spaces_around_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({" url": ["a.jpg"], "a;b": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column 'url'; it has ' url', 'a;b'"):
        check_columns([f"{tmp_path}/a.parquet"], Columns("url"), [])
    assert check_columns([f"{tmp_path}/a.parquet"], Columns(" url"), []).uri == " url"


def test_a_tilde_is_the_home_folder_if_only_that_file_exists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "home").mkdir()
    (folder / "home" / "mine.jpg").touch()
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert clean_address("~/mine.jpg", str(folder)) == f"{folder}/home/mine.jpg"
    assert clean_address("~/gone.jpg", str(folder)) == "~/gone.jpg"
    (folder / "~").mkdir()
    (folder / "~" / "mine.jpg").touch()
    assert clean_address("~/mine.jpg", str(folder)) == "~/mine.jpg"
