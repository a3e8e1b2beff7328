"""A picture has one place, however a list spells it."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from apache_beam.pvalue import Row
from PIL import Image
from support.servers.object_stores import Bucket

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.core.beam_schema import TaskSpec, to_ref
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.manifest import read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.inputs.patterns.patterns import absolute_pattern, list_images


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``lists`` beside ``images``, which holds a picture."""
    for name in ("lists", "images", "images/my cats"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "my cats" / "b c.png")
    return tmp_path


def listed(path: Path, *urls: str) -> list[ImageRef]:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("url",), *((url,) for url in urls)])
    return list(read_manifest(str(path), Columns("url")))


def test_all_spellings_in_a_list_are_one_picture_with_the_place_that_a_listing_gives(place: Path) -> None:
    refs = listed(
        place / "lists" / "a.csv",
        "../images/a.png",
        ".././images//a.png",
        f"{place}/images/a.png",
        f"{place}//images/./a.png",
        f"/{place}/images/my cats/../a.png",
        f"file://{place}/images/a.png",
        f"file://localhost{place}/lists/../images/a.png",
        f"FILE://{place}/%69mages/a%2Epng",
    )
    (found,) = (ref for ref in list_images(f"{place}/images") if ref.filename == "a.png")
    assert {ref.uri for ref in refs} == {found.uri} and {ref.key for ref in refs} == {found.key}
    assert Fetcher()(found.location)


def test_names_are_below_the_folder_that_lists_and_pictures_share(place: Path) -> None:
    spelt = [
        "../images/a.png",
        "../images/my cats/b c.png",
        "./x//y/../a.png",
        f"file://{place}/images/my%20cats/b%20c.png",
    ]
    assert [ref.filename for ref in listed(place / "lists" / "a.csv", *spelt)] == [
        "images/a.png",
        "images/my cats/b c.png",
        "x/a.png",
        "b c.png",
    ]


def test_a_percent_sign_in_a_path_is_part_of_a_name(place: Path) -> None:
    Image.new("RGB", (4, 3)).save(place / "images" / "a%2Epng.png")
    (ref,) = listed(place / "lists" / "a.csv", "../images/a%2Epng.png")
    assert ref.uri == f"{place}/images/a%2Epng.png" and Fetcher()(ref.location)


def test_links_are_not_followed_and_the_parent_of_a_linked_folder_is_that_of_its_target(place: Path) -> None:
    (place / "far" / "deep").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(place / "far" / "a.png")
    (place / "images" / "link").symlink_to(place / "far" / "deep")
    (place / "images" / "same.png").symlink_to(place / "images" / "a.png")
    up, direct, same = listed(
        place / "lists" / "a.csv", "../images/link/../a.png", "../images/a.png", "../images/same.png"
    )
    # Without the link in it, the first path would name another picture.
    assert up.uri == f"{place}/images/link/../a.png" != direct.uri
    assert Fetcher()(up.location) == (place / "far" / "a.png").read_bytes() != Fetcher()(direct.location)
    assert same.uri == f"{place}/images/same.png"
    assert absolute_pattern(f"{place}/images/link/../a.png") == up.uri


def test_patterns_and_rows_of_ones_own_pipeline_have_the_same_places(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place / "lists")
    spelt = ["../images/a.png", f"{place}//images/a.png", f"file://{place}/images/./a.png"]
    assert {absolute_pattern(pattern) for pattern in spelt} == {f"{place}/images/a.png"}
    refs = [to_ref(Row(uri=uri), TaskSpec((Caption(),)), os.getcwd()) for uri in spelt]
    assert {ref.uri for ref in refs} == {f"{place}/images/a.png"}
    member = to_ref(Row(uri="../a.tar#x//../b.png", byte_offset=512, byte_size=3), TaskSpec((Caption(),)), os.getcwd())
    assert member.uri == f"{place}/a.tar#x//../b.png"


def test_addresses_on_the_web_and_names_of_objects_stay_as_they_are(place: Path) -> None:
    spelt = ["https://h/x//./y/../a.png", "s3://b/x//y/./../a.png", "gs://b/./a%20b.png", "hdfs://h:9000/x//a.png"]
    assert [ref.uri for ref in listed(place / "lists" / "a.csv", *spelt)] == spelt


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_relative_paths_of_a_list_in_a_bucket_lead_to_its_objects(
    kind: str, bucket_of: Callable[[str], Bucket]
) -> None:
    bucket = bucket_of(kind)
    names = ["../images/a.png", "./b.png", "x/../b.png", "x//c.png", "../../../../a.png"]
    bucket.put("set/lists/a.csv", "\n".join(["url", *names]).encode())
    *refs, outside = read_manifest(f"{bucket.root}/set/lists/a.csv", Columns("url"))
    found = [ref.uri.removeprefix(f"{bucket.root}/") for ref in refs]
    assert found == ["set/images/a.png", "set/lists/b.png", "set/lists/b.png", "set/lists/x//c.png"]
    assert "leads out of the bucket" in outside.problem and "a.csv#6" in outside.problem
