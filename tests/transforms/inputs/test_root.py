"""Names of a list are joined to a folder, and names without extension find the picture of that name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.inputs.manifest import ReadManifests, read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns, check_columns
from moondream_beam.transforms.inputs.root import check_root

NAMES = (
    "000a.jpg",
    "7.png",
    "two.jpg",
    "two.png",
    "two.txt",
    "v1.2_x.webp",
    "plain",
    "plain.jpg",
    "text.txt",
    ".h.jpg",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files, with a subfolder that holds one, and a subfolder named like a picture."""
    for name in (*NAMES, "sub/a.JPEG"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    (tmp_path / "train" / "dir.jpg").mkdir()
    return tmp_path / "train"


def listed(folder: Path, *ids: str, root: str | None = None) -> list[ImageRef]:
    path = folder.parent / "train.csv"
    path.write_text("\n".join(["id", *ids]) + "\n")
    return list(read_manifest(str(path), Columns("id", root=root or str(folder))))


def test_ids_find_the_one_picture_of_that_name(folder: Path) -> None:
    found = {"000a": "000a.jpg", "7": "7.png", "v1.2_x": "v1.2_x.webp", "sub/a": "sub/a.JPEG", "plain": "plain"}
    assert listed(folder, *found) == [ImageRef(f"{folder}/{name}", name) for name in found.values()]


def test_names_with_an_extension_are_joined_and_no_folder_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail(f"{path} was listed"))
    refs = listed(folder, "000a.jpg", "sub/../7.PNG", "gone.jpg", "../other/a.jpg")
    assert [ref.uri for ref in refs] == [
        f"{folder}/000a.jpg",
        f"{folder}/7.PNG",
        f"{folder}/gone.jpg",
        f"{folder.parent}/other/a.jpg",
    ]
    assert [ref.filename for ref in refs] == ["000a.jpg", "7.PNG", "gone.jpg", "other/a.jpg"]


def test_absolute_paths_and_addresses_are_not_joined(folder: Path) -> None:
    given = ["/x/a.jpg", "https://h/a", "s3://b/a"]
    assert [ref.uri for ref in listed(folder, *given)] == given


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two", ("two names 2 pictures in {folder}: two.jpg, two.png;", "write the extension")),
        ("text", ("no picture in {folder} is named text.*",)),
        ("gone", ("no picture in {folder} is named gone.*",)),
        ("dir", ("no picture in {folder} is named dir.*",)),
        ("000A", ("no picture in {folder} is named 000A.*",)),
        ("no/such/a", ("no picture in {folder}/no/such is named a.*",)),
        ("7.png/a", ("no picture in {folder}/7.png is named a.*",)),
    ],
)
def test_names_that_find_none_or_several_become_rows_that_say_where_was_searched(
    folder: Path, name: str, words: tuple[str, ...]
) -> None:
    (ref,) = listed(folder, name)
    assert ref.uri == name and ref.problem.startswith("train.csv#2: ")
    assert all(part.format(folder=folder) in ref.problem for part in words)


def test_each_folder_is_listed_once_for_all_manifests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[str] = []
    scandir = os.scandir

    def noting(path: Any) -> Any:
        scans.append(str(path))
        return scandir(path)

    for number in range(3):
        (folder.parent / f"{number}.csv").write_text("id\n" + "000a\nsub/a\n" * 50)
    monkeypatch.setattr(os, "scandir", noting)
    patterns = [f"{folder.parent}/*.csv"]
    refs = collect(lambda pipeline: pipeline | ReadManifests(patterns, Columns("id", root=f"{folder}/")))
    assert len(refs) == 300 and {ref.problem for ref in refs} == {""}
    assert sorted(path for path in scans if path.startswith(str(folder))) == [str(folder), f"{folder}/sub"]


def test_ids_may_be_numbers(folder: Path) -> None:
    pq.write_table(pa.table({"id": [7, 8]}), folder.parent / "ids.parquet")
    found, missing = read_manifest(f"{folder.parent}/ids.parquet", Columns("id", root=str(folder)))
    assert found.filename == "7.png" and "8.*" in missing.problem


def test_a_folder_without_permission_is_told_in_each_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Any) -> Iterator[Any]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    (ref,) = listed(folder, "000a")
    assert f"{folder} can't be listed: Permission denied; allow" in ref.problem


@pytest.mark.parametrize("kind", ["s3", "gs", "az"])
def test_a_root_may_be_in_a_bucket(kind: str, bucket_of: Callable[[str], Bucket], tmp_path: Path) -> None:
    bucket = bucket_of(kind)
    for name in ("train/a.jpg", "train/two.jpg", "train/two.png", "train/sub/b.png", "training.jpg"):
        bucket.put(name, b"x")
    (tmp_path / "ids.csv").write_text("id\na\nsub/b\nc.jpg\ntwo\ngone\n")
    root = check_root(f"{bucket.root}/train/")
    refs = list(read_manifest(f"{tmp_path}/ids.csv", Columns("id", root=root)))
    assert [ref.uri for ref in refs[:3]] == [f"{bucket.root}/train/{name}" for name in ("a.jpg", "sub/b.png", "c.jpg")]
    assert f"in {bucket.root}/train: two.jpg, two.png" in refs[3].problem
    assert f"no picture in {bucket.root}/train is named gone.*" in refs[4].problem
    with pytest.raises(ValueError, match="no such folder"):
        check_root(f"{bucket.root}/trai")


def test_a_root_that_is_no_folder_is_refused_before_any_work(folder: Path) -> None:
    (folder.parent / "a.csv").write_text("id\n7\n")
    for root, words in (
        (f"{folder}/none", "no such folder"),
        (f"{folder}/7.png", "no such folder"),
        ("https://h/x", "give a local folder"),
    ):
        with pytest.raises(ValueError, match=f"root {root}: {words}"):
            check_columns([f"{folder.parent}/a.csv"], Columns("id", root=root), [])
    with pytest.raises(ValueError, match="leave out --root"):
        Columns(image="image", root=str(folder))
