"""Patterns become references: which files match, which are skipped, and how they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.running.beam_runs import collect

from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_images

NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A tree of empty files with many kinds of names."""
    root = tmp_path / "photos"
    for name in (
        "a.jpg",
        "b.JPEG",
        "c.png",
        "notes.txt",
        "noextension",
        ".hidden.jpg",
        ".thumbnails/a.jpg",
        "summer/a.jpg",
        "summer/sea/d.webp",
        "summer/sea/d.jpg.part",
        "Zürich/Straße 1 – 夏.jpg",
        "odd/e[1].jpg",
        "odd/e1.jpg",
        "odd/what?.jpg",
        "odd/all*.jpg",
        f"odd/{NOT_UTF8}",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(*pattern: object) -> list[str]:
    return sorted(ref.filename for ref in list_images(os.path.join(*map(str, pattern))))


IN_ALL = [
    "Zürich/Straße 1 – 夏.jpg",
    "a.jpg",
    "b.JPEG",
    "c.png",
    "odd/all*.jpg",
    f"odd/{NOT_UTF8}",
    "odd/e1.jpg",
    "odd/e[1].jpg",
    "odd/what?.jpg",
    "summer/a.jpg",
    "summer/sea/d.webp",
]


def test_a_folder_gives_its_images_and_skips_hidden_files(photos: Path) -> None:
    assert found(photos) == sorted(IN_ALL)


def test_a_reference_holds_the_path_of_the_file(photos: Path) -> None:
    refs = list(list_images(str(photos)))
    assert all(os.path.join(photos, ref.filename) == ref.uri and os.path.exists(ref.uri) for ref in refs)
    assert not any(ref.tasks for ref in refs)


def test_a_hidden_folder_is_listed_when_the_pattern_names_it(photos: Path) -> None:
    assert found(photos, ".thumbnails") == ["a.jpg"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jpg", ["a.jpg"]),
        ("*", ["a.jpg", "b.JPEG", "c.png", "noextension", "notes.txt"]),
        ("**/a.jpg", ["a.jpg", "summer/a.jpg"]),
        ("summer/**/*.webp", ["sea/d.webp"]),
        ("*/sea/*.webp", ["summer/sea/d.webp"]),
        ("Z*/*.jpg", ["Zürich/Straße 1 – 夏.jpg"]),
        ("[ab].*", ["a.jpg", "b.JPEG"]),
        ("nothing/**", []),
    ],
)
def test_globs_match_files_and_name_them_relative_to_the_folder_before_the_wildcard(
    photos: Path, pattern: str, names: list[str]
) -> None:
    assert found(photos, pattern) == names


@pytest.mark.parametrize("name", ["e[1].jpg", "what?.jpg", "all*.jpg", NOT_UTF8])
def test_an_existing_name_with_wildcards_matches_itself(photos: Path, name: str) -> None:
    assert found(photos, "odd", name) == [name]


def test_brackets_are_wildcards_if_no_such_name_exists(photos: Path) -> None:
    assert found(photos, "odd", "e[0-9].jpg") == ["e1.jpg"]


def test_a_folder_with_brackets_in_its_name_is_listed(tmp_path: Path) -> None:
    (tmp_path / "set [1]").mkdir()
    (tmp_path / "set [1]" / "a.png").touch()
    assert found(tmp_path, "set [1]") == ["a.png"]


def test_a_file_named_by_the_pattern_needs_no_extension(photos: Path) -> None:
    assert found(photos, "noextension") == ["noextension"]


def test_a_folder_with_the_extension_of_an_image_is_not_an_image(photos: Path) -> None:
    (photos / "album.jpg").mkdir()
    (photos / "album.jpg" / "x.png").touch()
    assert found(photos, "*.jpg") == ["a.jpg"]
    assert "album.jpg/x.png" in found(photos)


def test_a_link_to_a_folder_is_listed_when_the_pattern_names_it(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("photos/summer")
    assert found(tmp_path, "link") == ["a.jpg", "sea/d.webp"]


def test_a_broken_link_is_listed_and_fails_when_it_is_fetched(photos: Path) -> None:
    (photos / "dead.jpg").symlink_to("gone.jpg")
    assert "dead.jpg" in found(photos)
    assert found(photos, "dead.jpg") == ["dead.jpg"]


def test_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="no input"):
        ReadImages()


def test_an_archive_behind_http_is_refused_even_if_its_path_exists_locally(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(1024))
    for url in (f"https://photos.example{tmp_path}/a.tar", f"http://photos.example{tmp_path}/a.TGZ"):
        with pytest.raises(ValueError, match=r"photos\.example.*: archives are read from a disk or a bucket"):
            ReadImages(url)


def test_overlapping_patterns_give_each_image_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    patterns = [str(photos), "summer", "*.jpg", "./odd/../a.jpg", f"odd/{NOT_UTF8}", "notes.txt"]
    refs = [ref for ref in collect(lambda pipeline: pipeline | ReadImages(*patterns)) if not ref.skipped]
    assert sorted(ref.uri for ref in refs) == sorted(str(photos / name) for name in [*IN_ALL, "notes.txt"])
    # An image found under several names gets the first in alphabetical order, whatever the runner does.
    assert {ref.filename for ref in refs if "summer" in ref.uri} == {"a.jpg", "sea/d.webp"}
