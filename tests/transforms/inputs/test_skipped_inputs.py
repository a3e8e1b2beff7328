"""What an input holds besides pictures is counted by kind: in folders, in buckets, and not where a glob is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.core.summary import Count, sum_counts
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_images
from moondream_beam.transforms.inputs.patterns.unmatched import first_unmatched

NAMES = [
    "a.jpg",
    "notes.txt",
    "NOTES2.TXT",
    "README",
    ".hidden.txt",
    ".thumbs/list.txt",
    "sea/b.png",
    "sea/b.json",
    "sea/deep/c.json",
    "sea/deep/.nomedia",
    "2.5/d.webp",
    "2.5/LICENSE",
]
IN_ALL = ["2.5/d.webp", "a.jpg", "sea/b.png"]
LEFT_OUT = [
    ("files ending in .json", 2, "sea/b.json"),
    ("files ending in .txt", 2, "NOTES2.TXT"),
    ("files without an ending", 2, "2.5/LICENSE"),
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def read(*patterns: object) -> tuple[list[str], list[tuple[str, int, str]]]:
    """Return the names of the pictures, and what is left out as (kind, count, example)."""
    refs = collect(lambda pipeline: pipeline | ReadImages(*map(str, patterns)))
    return sorted(ref.filename for ref in refs if not ref.skipped), left_out(refs)


def left_out(refs: Iterable[ImageRef]) -> list[tuple[str, int, str]]:
    total: Count = sum_counts(map(Count.of_skipped, refs))
    return [tuple(each) for each in total.skipped]


def test_other_files_of_a_folder_are_counted_by_ending_and_hidden_ones_are_not(photos: Path) -> None:
    assert read(photos) == (IN_ALL, LEFT_OUT)


def test_other_files_of_a_folder_in_a_bucket_are_counted_as_on_disk(bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("s3")
    for name in [*NAMES, "empty/", "sea/empty/"]:
        bucket.put(f"photos/{name}", b"x")
    assert read(f"{bucket.root}/photos") == (IN_ALL, LEFT_OUT)
    # Nothing of a glob is left out: a file that the pattern does not match is not part of the input.
    assert read(f"{bucket.root}/photos/**/*.jpg") == (["a.jpg"], [])


def test_a_glob_or_a_file_leaves_nothing_out(photos: Path) -> None:
    assert read(f"{photos}/**/*.jpg", photos / "sea/b.png") == (["a.jpg", "b.png"], [])


def test_a_folder_that_two_patterns_hold_is_counted_once(photos: Path) -> None:
    assert read(photos, photos / "sea")[1] == [("files ending in .json", 2, "b.json"), *LEFT_OUT[1:]]


def test_a_picture_and_other_files_of_the_same_name_are_both_kept(photos: Path) -> None:
    (photos / "*.txt").touch()
    names, others = read(photos / "*.txt", photos)
    assert "*.txt" in names
    assert ("files ending in .txt", 3, "*.txt") in others


def test_a_folder_with_other_files_only_has_no_picture(photos: Path) -> None:
    (photos / "texts").mkdir()
    (photos / "texts" / "a.txt").touch()
    assert list(list_images(f"{photos}/texts")) == []
    assert "1 x files ending in .txt" in first_unmatched([f"{photos}/texts"]).reason


def test_each_folder_and_ending_is_one_reference(photos: Path) -> None:
    for number in range(500):
        (photos / "sea" / f"{number}.xml").touch()
    refs = collect(lambda pipeline: pipeline | ReadImages(str(photos)))
    (xml,) = [ref for ref in refs if ref.skipped and ref.skipped.kind == "files ending in .xml"]
    assert (xml.uri, xml.filename, xml.skipped.count) == (f"{photos}/sea/*.xml", "sea/0.xml", 500)
