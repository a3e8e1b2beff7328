"""Patterns in buckets match like patterns on disk, and what they find can be fetched."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.running.beam_runs import collect
from support.servers.object_stores import Bucket

from moondream_beam.transforms.images import fetch as module
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.bucket_listing import PendingFolder, split_glob
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.patterns.patterns import list_first_level, list_images
from moondream_beam.transforms.inputs.patterns.unmatched import first_unmatched
from moondream_beam.transforms.io.object_stores.base import Stores
from moondream_beam.transforms.io.retry import FetchError

KINDS = ["s3", "gs", "az"]
NAMES = [
    "photos/a.jpg",
    "photos/b.JPEG",
    "photos/notes.txt",
    "photos/.hidden.jpg",
    "photos/.thumbs/a.jpg",
    "photos/sea/c.webp",
    "photos/sea/deep/d.png",
    "photos/odd/e[1].jpg",
    "photos/odd/e1.jpg",
    "photos2/x.jpg",
]


@pytest.fixture(params=KINDS)
def bucket(request: pytest.FixtureRequest, bucket_of: Callable[[str], Bucket]) -> Bucket:
    return bucket_of(request.param)


@pytest.fixture
def photos(bucket: Bucket) -> Bucket:
    for name in NAMES:
        bucket.put(name, name.encode())
    return bucket


def found(pattern: str, stores: Stores | None = None) -> list[str]:
    return sorted(ref.filename for ref in list_images(pattern, stores))


IN_ALL = ["a.jpg", "b.JPEG", "odd/e1.jpg", "odd/e[1].jpg", "sea/c.webp", "sea/deep/d.png"]


def test_patterns_match_as_they_do_on_disk(photos: Bucket) -> None:
    root, stores = photos.root, Stores()
    for pattern, names in {
        "photos": IN_ALL,
        "photos/": IN_ALL,
        "photos/*.jpg": ["a.jpg"],
        "photos/*": ["a.jpg", "b.JPEG", "notes.txt"],
        "photos/**/*.jpg": ["a.jpg", "odd/e1.jpg", "odd/e[1].jpg"],
        "photos/s*/*.webp": ["sea/c.webp"],
        "photos/*/d*/*": ["sea/deep/d.png"],
        "photos/sea/**": ["c.webp", "deep/d.png"],
        "photos/[ab].*": ["a.jpg", "b.JPEG"],
        "photos/[!a].*": ["b.JPEG"],
        "photos/odd/e[0-9].jpg": ["e1.jpg"],
        "photos/odd/e[1].jpg": ["e[1].jpg"],
        "photos/notes.txt": ["notes.txt"],
        "pho*/x.jpg": ["photos2/x.jpg"],
        "photos/none*": [],
        "none": [],
    }.items():
        assert (pattern, found(f"{root}/{pattern}", stores)) == (pattern, sorted(names))


def test_a_folder_with_an_empty_name_is_listed(photos: Bucket) -> None:
    for name in ("photos//f.jpg", "photos/sea//deep/g.jpg", "photos//.hidden/h.jpg"):
        photos.put(name, b"x")
    assert found(f"{photos.root}/photos") == sorted([*IN_ALL, "/f.jpg", "sea//deep/g.jpg"])
    assert found(f"{photos.root}/photos/**/*.jpg")[:2] == ["/f.jpg", "a.jpg"]
    assert found(f"{photos.root}/photos/*.jpg") == ["a.jpg"]


def test_a_whole_bucket_is_listed_like_a_folder(photos: Bucket) -> None:
    assert found(photos.root) == sorted([*(f"photos/{name}" for name in IN_ALL), "photos2/x.jpg"])


def test_only_folders_that_may_hold_a_match_are_listed(photos: Bucket) -> None:
    folders = [
        one.uri for one in list_first_level(f"{photos.root}/photos/s*/*", Stores()) if isinstance(one, PendingFolder)
    ]
    assert folders == [f"{photos.root}/photos/sea/"]


def test_a_reference_can_be_fetched(photos: Bucket) -> None:
    fetch = Fetcher()
    refs = list(list_images(f"{photos.root}/photos"))
    assert {ref.filename: fetch(ref.uri).decode() for ref in refs} == {name: f"photos/{name}" for name in IN_ALL}


def test_a_pipeline_lists_folder_by_folder(photos: Bucket) -> None:
    refs = collect(lambda pipeline: pipeline | ReadImages(f"{photos.root}/photos", f"{photos.root}/photos/*.jpg"))
    assert sorted(ref.filename for ref in refs if not ref.skipped) == IN_ALL


def test_a_pattern_without_a_match_is_returned(photos: Bucket) -> None:
    nothing = first_unmatched([f"{photos.root}/photos", f"{photos.root}/none/"])
    assert nothing.pattern == f"{photos.root}/none/" and "no such object" in nothing.reason
    photos.put("texts/a.txt", b"x")
    assert "1 x files ending in .txt" in first_unmatched([f"{photos.root}/texts"]).reason
    assert "no file matches" in first_unmatched([f"{photos.root}/photos/*.gif"]).reason


def test_a_listing_of_several_pages_is_complete(bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("s3")
    for index in range(1003):
        bucket.put(f"many/{index:04}.jpg", b"x")
    assert found(f"{bucket.root}/many") == [f"{index:04}.jpg" for index in range(1003)]
    assert sum("list-type" in path for _, path in bucket.proxy.asked) == 3


def test_a_missing_object_is_an_error_that_is_not_retried(bucket: Bucket) -> None:
    with pytest.raises(FetchError) as caught:
        Fetcher()(f"{bucket.root}/gone.jpg")
    fault = caught.value.fault
    assert (fault.error, fault.retryable, fault.attempts) == ("FileNotFoundError", False, 1)
    assert "gone.jpg" in fault.message


def test_a_missing_bucket_is_an_error(bucket: Bucket) -> None:
    with pytest.raises(FetchError, match="404"):
        found(f"{bucket.root}-none/photos")


def test_empty_and_large_objects_are_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 20)
    bucket.put("empty.jpg", b"")
    bucket.put("just.jpg", bytes(1 << 20))
    bucket.put("large.jpg", bytes((1 << 20) + 1))
    fetch = Fetcher()
    assert len(fetch(f"{bucket.root}/just.jpg")) == 1 << 20
    with pytest.raises(ValueError, match="empty"):
        fetch(f"{bucket.root}/empty.jpg")
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        fetch(f"{bucket.root}/large.jpg")


def test_names_with_special_characters_are_listed_and_read(bucket: Bucket) -> None:
    # The emulator for gs:// can't read names with %, # and ? back.
    names = ["Straße 1 – 夏.jpg", "a b+c&d.jpg", "e[1]*.jpg"] + (
        ["50%.jpg", "a?b#c.jpg"] if bucket.root[:2] != "gs" else []
    )
    for name in names:
        assert Fetcher()(bucket.put(f"odd/{name}", name.encode())) == name.encode()
    assert found(f"{bucket.root}/odd") == sorted(names)


def test_wildcards_in_the_name_of_a_bucket_are_refused() -> None:
    with pytest.raises(ValueError, match="bucket's own name"):
        found("s3://photos*")


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("s3://b", ("s3://b/", [])),
        ("s3://b/x/", ("s3://b/x/", [])),
        ("s3://b/x/*.jpg", ("s3://b/x/", ["*.jpg"])),
        ("s3://b/x*/y", ("s3://b/", ["x*", "y"])),
    ],
)
def test_a_pattern_is_split_at_its_first_wildcard(pattern: str, parts: tuple[str, list[str]]) -> None:
    assert split_glob(pattern) == parts
