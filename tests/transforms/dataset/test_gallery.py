"""The gallery shows the right pictures, and the problem of those that cannot be shown."""

from __future__ import annotations

import io
import tarfile
from hashlib import sha256

import pytest
from PIL import Image, ImageChops, ImageStat
from support.data.outputs import publish, troubled
from support.data.rows import annotation, failure

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.dataset import gallery
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.inputs.patterns.patterns import list_archive


def shown(uri, digest="5", byte_range=(None, None)):
    return gallery.GalleryRow("k", "a.jpg", str(uri), digest, 4, 3, ["random"], *byte_range)


def looked_at(picture):
    gallery.add_thumbnails([picture], Fetcher())
    return picture


def test_random_and_flagged_pictures_are_chosen_always_the_same(tmp_path):
    output = troubled(tmp_path)
    with Dataset(str(output)) as dataset:
        chosen = gallery.choose(dataset)
        assert [picture.key for picture in gallery.choose(dataset)] == [picture.key for picture in chosen]
    assert sum("random" in picture.selected_for for picture in chosen) == gallery.NUM_RANDOM_PICTURES
    kinds = {kind for picture in chosen for kind in picture.selected_for}
    assert kinds == {"random", "empty", "cut off", "loop", "refusal", "boilerplate", "shared", gallery.FAILED}
    assert len({picture.key for picture in chosen}) == len(chosen)


def test_a_picture_shows_a_limited_number_of_rows_the_flagged_first(tmp_path):
    rows = [annotation(id=f"{index:02}", task="query", prompt=f"{index:02}", caption="A dog.") for index in range(20)]
    publish(tmp_path, [*rows[:-1], rows[-1]._replace(caption="")])
    with Dataset(str(tmp_path)) as dataset:
        (picture,) = gallery.choose(dataset)
    assert len(picture.rows) == gallery.ROWS_OF_A_PICTURE and picture.more_rows == 20 - gallery.ROWS_OF_A_PICTURE
    assert picture.rows[0]["prompt"] == "19" and picture.rows[1]["prompt"] == "00"


def test_an_answer_that_rows_of_a_manifest_share_is_shown_once(tmp_path):
    rows = [annotation(id=f"{index:02}", caption="A dog.") for index in range(20)]
    publish(
        tmp_path, [*rows, annotation(id="other", caption="A dog.", run="two"), annotation(id="more", caption="A cat.")]
    )
    with Dataset(str(tmp_path)) as dataset:
        (picture,) = gallery.choose(dataset)
    assert sorted(row["caption"] for row in picture.rows) == ["A cat.", "A dog.", "A dog."] and picture.more_rows == 0


@pytest.mark.parametrize("size", [(3000, 2000), (1, 900), (20, 20)])
def test_a_thumbnail_is_a_small_jpeg(size):
    small = Image.open(io.BytesIO(gallery.thumbnail(Image.effect_noise(size, 200).convert("RGB"))))
    assert small.format == "JPEG" and max(small.size) <= gallery.THUMBNAIL_SIDE
    assert max(size) > gallery.THUMBNAIL_SIDE or small.size == size


def test_a_large_jpeg_is_decoded_at_a_reduced_size_and_has_the_same_thumbnail(tmp_path):
    assert gallery.is_enough((4000, 3000), (1000, 750)) and not gallery.is_enough((4000, 3000), (500, 375))
    whole = Image.radial_gradient("L").resize((1600, 1200)).convert("RGB")
    whole.save(tmp_path / "a.jpg", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    picture = looked_at(shown(tmp_path / "a.jpg", sha256(content).hexdigest()))
    small, full = (Image.open(io.BytesIO(file)) for file in (picture.thumbnail, gallery.thumbnail(whole)))
    assert small.size == full.size == (360, 270) and picture.problem == ""
    assert ImageStat.Stat(ImageChops.difference(small, full)).mean < [2, 2, 2]


def test_a_thumbnail_keeps_to_its_bytes():
    noise = Image.merge("RGB", [Image.effect_noise((2000, 2000), spread) for spread in (90, 100, 110)])
    assert len(gallery.thumbnail(noise)) <= gallery.THUMBNAIL_BYTES


def test_a_picture_is_shown_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 20)).save(path, exif=turned)
    picture = looked_at(shown(path, sha256(path.read_bytes()).hexdigest()))
    assert Image.open(io.BytesIO(picture.thumbnail)).size == (20, 40) and picture.problem == ""


def test_a_changed_picture_is_shown_with_its_problem(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    picture = looked_at(shown(path))
    assert picture.thumbnail and picture.problem == gallery.CHANGED


@pytest.mark.parametrize(
    "name, trouble",
    [
        ("gone.png", gallery.GONE),
        ("text.png", gallery.BROKEN),
        ("set.tar#a.png", gallery.UNKEPT),
        ("http://127.0.0.1:1/a.png", gallery.GONE),
        ("data:image/png;base64,sha256:00", gallery.UNKEPT),
    ],
)
def test_a_picture_without_a_thumbnail_has_a_problem(name, trouble, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    picture = looked_at(shown(name if ":" in name else tmp_path / name))
    assert (picture.thumbnail, picture.problem) == (None, trouble)


@pytest.fixture
def in_archive(tmp_path):
    """A picture in an archive, as its row has it."""
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(path, "deep/a.png")
    (ref,) = list_archive(ImageRef(f"{tmp_path}/set.tar", "set.tar"))
    return shown(ref.uri, sha256(path.read_bytes()).hexdigest(), ref.byte_range)


def test_a_picture_in_an_archive_is_shown(in_archive):
    picture = looked_at(in_archive)
    assert picture.thumbnail and picture.problem == ""


def test_a_picture_in_an_archive_that_was_repacked_is_not_shown_and_has_changed(in_archive, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "first.png")
        tar.add(tmp_path / "a.png", "deep/a.png")
    picture = looked_at(in_archive)
    assert (picture.thumbnail, picture.problem) == (None, gallery.CHANGED)


def test_a_picture_in_an_archive_that_is_gone_can_not_be_had(in_archive, tmp_path):
    (tmp_path / "set.tar").unlink()
    assert looked_at(in_archive).problem == gallery.GONE


def test_rows_of_two_keys_at_one_uri_are_both_shown(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    both = [shown(path), shown(path)]
    gallery.add_thumbnails(both, Fetcher())
    assert all(picture.thumbnail for picture in both)


def test_a_picture_without_an_answer_has_its_failures_and_is_not_read_again(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 3)).save(path)
    cut = {"key": "cut", "uri": str(path), "stage": "decode", "message": "image is cut off"}
    refused = {"key": "refused", "uri": str(path), "stage": "answer", "message": "too long"}
    rows = [failure(id="1", **cut), failure(id="2", task="caption", **cut), failure(id="3", **refused)]
    publish(tmp_path, [annotation(key="good"), *rows])
    with Dataset(str(tmp_path)) as dataset:
        pictures = {picture.key: picture for picture in gallery.choose(dataset)}
    gallery.add_thumbnails(pictures.values(), Fetcher())
    found = pictures["cut"]
    assert [row["task"] for row in found.failures] == ["caption", "query"] and found.selected_for == [gallery.FAILED]
    assert not found.rows and found.thumbnail is None and found.problem == ""
    assert pictures["refused"].thumbnail and pictures["refused"].width == 4
    assert pictures["good"].selected_for == ["random"] and not pictures["good"].failures


def test_a_picture_with_an_answer_and_a_failure_has_both(tmp_path):
    publish(tmp_path, [annotation(key="k"), failure(key="k", stage="list", message="column question is empty")])
    with Dataset(str(tmp_path)) as dataset:
        (picture,) = gallery.choose(dataset)
    assert picture.rows and picture.failures and picture.selected_for == ["random", gallery.FAILED]
