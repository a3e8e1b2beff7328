"""A pattern without a picture is named with the reason: nothing there, or nothing that is a picture."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from support.running.beam_runs import collect

from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import absolute_pattern
from moondream_beam.transforms.inputs.patterns.unmatched import first_unmatched
from moondream_beam.transforms.output.files import absolute


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "empty").mkdir(parents=True)
    (root / "a.jpg").touch()
    return root


def reason(pattern: object) -> str:
    found = first_unmatched([str(pattern)])
    assert found is not None and found.pattern == str(pattern)
    return found.reason


def tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as file:
        for name in names:
            file.addfile(tarfile.TarInfo(name), io.BytesIO())


def test_the_first_pattern_without_a_match_is_returned(photos: Path) -> None:
    some, none = str(photos), str(photos / "*.gif")
    assert first_unmatched([some, some]) is None
    assert first_unmatched([some, none]).pattern == none


def test_a_missing_folder_and_a_folder_without_a_picture_are_told_apart(photos: Path) -> None:
    assert "no such file or folder" in reason(photos / "none")
    assert "no picture in it" in reason(photos / "empty")
    assert f"no folder {photos}/none" in reason(photos / "none" / "*.jpg")
    assert "no file matches" in reason(photos / "*.gif")
    assert "no file matches" in reason(photos / "**" / "*.gif")


def test_what_a_folder_without_a_picture_holds_is_told(photos: Path) -> None:
    for name in ("a.txt", "b.txt", "c.zip"):
        (photos / "empty" / name).touch()
    told = reason(photos / "empty")
    assert "2 x files ending in .txt" in told and "1 x files ending in .zip (such as c.zip)" in told


def test_for_a_folder_of_archives_the_glob_is_told(photos: Path) -> None:
    tar(photos / "empty" / "1.tar", "a.jpg")
    tar(photos / "empty" / "2.tar.GZ", "a.jpg")
    told = reason(photos / "empty")
    assert "2 x tar archives" in told and f"'{photos}/empty/**/*.tar*'" in told
    assert first_unmatched([f"{photos}/empty/**/*.tar*"]) is None


@pytest.mark.parametrize("names", [(), ("a.json", "b.txt")])
def test_an_archive_without_a_picture_is_no_input(photos: Path, names: tuple[str, ...]) -> None:
    tar(photos / "set.tar", *names)
    told = reason(photos / "set.tar")
    assert "no picture in it" in told and all(name[-4:] in told for name in names)
    assert "archives" not in told
    assert "hold no picture" in reason(photos / "*.tar")
    tar(photos / "set2.tar", "deep/a.jpg")
    assert first_unmatched([str(photos / "*.tar")]) is None


def test_an_archive_that_can_not_be_read_is_left_to_the_run(photos: Path) -> None:
    (photos / "set.tar").touch()
    assert first_unmatched([str(photos / "set.tar")]) is None


@pytest.mark.parametrize(
    ("name", "kind"), [("set.zip", "zip"), ("SET.ZIP", "zip"), ("set.7z", "7z"), ("a.rar", "RAR"), ("a.tar.lz4", "lz4")]
)
def test_an_archive_of_another_kind_is_named_with_the_cure(photos: Path, name: str, kind: str) -> None:
    (photos / name).write_bytes(b"PK")
    assert kind in reason(photos / name) and "unpack it" in reason(photos / name)
    refs = collect(lambda pipeline: pipeline | ReadImages(f"{photos}/*"))
    assert {ref.filename: bool(ref.problem) for ref in refs} == {"a.jpg": False, name: True}
    assert all("unpack it" in ref.problem for ref in refs if ref.problem)


def test_a_folder_with_the_ending_of_an_archive_is_a_folder(photos: Path) -> None:
    (photos / "set.zip").mkdir()
    (photos / "set.zip" / "a.jpg").touch()
    assert first_unmatched([f"{photos}/set.zip"]) is None


def test_a_name_that_does_not_exist_any_more_is_a_failure_of_the_run(photos: Path) -> None:
    (ref,) = collect(lambda pipeline: pipeline | ReadImages(f"{photos}/gone.jpg"))
    assert ref.filename == "gone.jpg" and "no such file" in ref.problem
    assert collect(lambda pipeline: pipeline | ReadImages(f"{photos}/empty", f"{photos}/*.gif")) == []


def test_a_tilde_is_the_home_folder_unless_a_file_is_called_so(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos))
    monkeypatch.chdir(photos / "empty")
    assert absolute_pattern("~/a.jpg") == f"{photos}/a.jpg"
    assert absolute_pattern("~/**/*.jpg") == f"{photos}/**/*.jpg" and absolute_pattern("~") == str(photos)
    assert absolute_pattern("a~/~b.jpg") == f"{photos}/empty/a~/~b.jpg"
    assert absolute_pattern("file:///~/a.jpg") == "/~/a.jpg"
    assert absolute("~/out") == f"{photos}/out" and absolute("./out") == f"{photos}/empty/out"
    os.mkdir("~")
    Path("~/a.jpg").touch()
    assert absolute_pattern("~/a.jpg") == f"{photos}/empty/~/a.jpg"
    assert absolute("~") == f"{photos}/empty/~"
