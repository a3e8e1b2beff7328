"""Pictures that go along are made smaller and changed in format as asked, upright, and otherwise unchanged."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from PIL import Image
from support.data.small_outputs import draw_row, with_digest

from moondream_beam.transforms.dataset.export.layouts.placing import LayoutOptions
from moondream_beam.transforms.dataset.export.pictures.convert import UNCHANGED, Wanted, readable_file
from moondream_beam.transforms.dataset.export.pictures.notes import CONVERTED, RESIZED


def encoded(size=(64, 48), kind="JPEG", mode="RGB", orientation=1, **values):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind, exif=exif, **values)
    return file.getvalue()


def opened(file):
    return Image.open(io.BytesIO(file.content))


@pytest.mark.parametrize(("size", "expected"), [((64, 48), (32, 24)), ((48, 64), (24, 32)), ((200, 1), (32, 1))])
def test_the_longer_side_has_the_pixels_asked_for(size, expected):
    file = readable_file(encoded(size), Wanted(longest=32))
    assert opened(file).size == file.size == expected and (file.extension, file.converted) == ("jpg", False)


@pytest.mark.parametrize("wanted", [UNCHANGED, Wanted(longest=64), Wanted(format="JPEG"), Wanted(upright=True)])
def test_a_picture_that_is_as_wanted_keeps_its_bytes(wanted):
    content = encoded()
    file = readable_file(content, wanted)
    assert file.content == content and file.size is None and not (file.converted or file.made_upright)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("wanted", [Wanted(upright=True), Wanted(longest=32), Wanted(format="PNG")])
def test_an_encoded_picture_is_upright(wanted, orientation):
    content = encoded(orientation=orientation)
    file = readable_file(content, wanted)
    expected = readable_file(content, Wanted(format="PNG"))
    assert file.made_upright and 0x0112 not in opened(file).getexif()
    assert (opened(file).width > opened(file).height) == (orientation < 5)
    middle, whole = opened(file).convert("L").resize((2, 2)), opened(expected).convert("L").resize((2, 2))
    assert all(abs(one - other) < 12 for one, other in zip(middle.tobytes(), whole.tobytes(), strict=True))


@pytest.mark.parametrize(
    ("format_name", "extension", "mode"), [("PNG", "png", "RGBA"), ("WEBP", "webp", "RGBA"), ("JPEG", "jpg", "RGB")]
)
def test_transparency_is_kept_by_the_formats_that_have_it_and_is_white_in_jpeg(format_name, extension, mode):
    image, source = Image.new("RGBA", (8, 8), (200, 40, 40, 0)), io.BytesIO()
    image.save(source, "TIFF")
    file = readable_file(source.getvalue(), Wanted(format=format_name))
    assert (file.extension, opened(file).mode, file.converted) == (extension, mode, True)
    assert mode == "RGBA" or min(opened(file).getpixel((4, 4))) > 250


@pytest.fixture
def large(tmp_path):
    """Rows about a JPEG of 64 x 48 pixels, and a PNG of 16 x 12."""
    return [draw_row(tmp_path / "photos", "a.jpg", (64, 48)), draw_row(tmp_path / "photos", "b.png", (16, 12))]


def test_an_imagefolder_describes_the_smaller_picture(export, large):
    folder, left = export("imagefolder", large, options=LayoutOptions(wanted=Wanted(longest=32)))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert left == {RESIZED: 1} and {(row["width"], row["height"]) for row in rows} == {(32, 24), (16, 12)}
    for row in rows:
        assert Image.open(io.BytesIO((folder / row["file_name"]).read_bytes())).size == (row["width"], row["height"])


def test_all_pictures_of_a_webdataset_have_the_format_asked_for(export, large):
    folder, left = export("webdataset", large, options=LayoutOptions(wanted=Wanted(format="WEBP")))
    with tarfile.open(folder / "000000.tar") as tar:
        names = [name for name in tar.getnames() if not name.endswith("json")]
        formats = [Image.open(io.BytesIO(tar.extractfile(name).read())).format for name in names]
    assert left == {CONVERTED: 2} and formats == ["WEBP"] * 2 and all(name.endswith(".webp") for name in names)


def test_a_broken_orientation_does_not_stop_an_export(export, large, tmp_path):
    (tmp_path / "photos" / "a.jpg").write_bytes(encoded(orientation=9))
    folder, left = export("llava", [with_digest(large[0])])
    assert not left and len(list((folder / "images").rglob("*.jpg"))) == 1
