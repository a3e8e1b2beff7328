"""Readers get every picture, whatever file formats the exported pictures have."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import sys
import tarfile
import warnings

import datasets
import pillow_heif
import pytest
import webdataset
from PIL import Image, ImageChops
from support.data.small_outputs import row_of, with_digest

from moondream_beam.transforms.dataset.export import formats
from moondream_beam.transforms.dataset.export.pictures.convert import readable_file
from moondream_beam.transforms.dataset.export.pictures.notes import CONVERTED
from moondream_beam.transforms.images.decode import UndecodableError, decode

ENDINGS = {
    "JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "JPEG2000": "jp2",
    "PPM": "ppm", "ICO": "ico", "AVIF": "avif", "HEIF": "heic",
}  # fmt: skip
SIZE = (32, 24)


def picture(alpha=255):
    """A picture with an opaque left half and a right half of this alpha."""
    drawn = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    drawn.putalpha(255)
    drawn.paste((200, 40, 40, alpha), (SIZE[0] // 2, 0, *SIZE))
    return drawn if alpha < 255 else drawn.convert("RGB")


def encoded(image, name, **values):
    if name == "HEIF":
        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    image.save(file, name, **values)
    return file.getvalue()


def difference(one, other):
    """Return the largest difference of two pictures in one channel."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def rows_of(folder, **contents):
    """Write each content to a file of this name, and return a row about it. ``__`` stands for the dot."""
    folder.mkdir(exist_ok=True)
    rows = []
    for name, content in contents.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content)
        rows.append(with_digest(row_of(path, path.name, width=SIZE[0], height=SIZE[1], caption=f"This is {name}.")))
    return rows


@pytest.fixture
def of_all_formats(tmp_path):
    """One picture in each file format."""
    contents = {
        f"a__{ending}": encoded(picture(), name, **({"sizes": [SIZE]} if name == "ICO" else {}))
        for name, ending in ENDINGS.items()
    }
    return rows_of(tmp_path / "photos", **contents)


def read_with_webdataset(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        # It leaves its tars to the garbage collector.
        tars = sorted(map(str, folder.iterdir()))
        samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
        gc.collect()
    return {sample["json"]["filename"]: sample["jpg"] for sample in samples}


# In a process of its own, because this package registers a decoder of HEIF for the whole process.
LOAD = """
import sys, datasets
from PIL import Image
Image.init()
assert "HEIF" not in Image.OPEN
kind, folder, cache = sys.argv[1:]
where = {"data_dir": folder} if kind == "imagefolder" else {"data_files": folder + "/*.tar"}
for row in datasets.load_dataset(kind, split="train", cache_dir=cache, **where):
    row = {**row, **row.get("json", {})}
    print(row["filename"], (row.get("image") or row.get("jpg")).size == (32, 24), row["caption_normal"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_datasets_loads_pictures_of_all_formats(kind, export, of_all_formats, tmp_path):
    folder, left = export(kind, of_all_formats)
    assert left[CONVERTED] == 2
    words = [sys.executable, "-c", LOAD, kind, str(folder), str(tmp_path / "cache")]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    assert sorted(printed) == sorted(f"a.{ending} True This is a__{ending}." for ending in ENDINGS.values())


def test_webdataset_decodes_pictures_of_all_formats(export, of_all_formats):
    folder, left = export("webdataset", of_all_formats)
    assert left == {CONVERTED: 2, formats.OTHER_FORMAT: 8}
    found = read_with_webdataset(folder)
    assert set(found) == {row.filename for row in of_all_formats}
    for name, image in found.items():
        # A GIF has a palette; JPEG loses a little.
        assert image.size == SIZE and (name == "a.gif" or difference(image, picture()) < 48)


def test_files_of_formats_that_readers_know_are_unchanged(export, of_all_formats, tmp_path):
    folder, _ = export("imagefolder", of_all_formats)
    for line in (folder / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        original = (tmp_path / "photos" / row["filename"]).read_bytes()
        exported = (folder / row["file_name"]).read_bytes()
        if row["filename"] in ("a.avif", "a.heic"):
            assert row["file_name"].endswith(".jpg") and Image.open(io.BytesIO(exported)).format == "JPEG"
            assert difference(decode(exported), decode(original)) < 12
        else:
            assert exported == original and row["file_name"].endswith(row["filename"][1:])


@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_transparency_is_kept_in_a_png(name):
    content = encoded(picture(alpha=0), name)
    file = readable_file(content)
    exported = Image.open(io.BytesIO(file.content))
    assert (file.extension, file.converted, exported.format, exported.mode) == ("png", True, "PNG", "RGBA")
    assert exported.getchannel("A").getextrema() == (0, 255)
    assert difference(decode(file.content), decode(content)) == 0


@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
def test_a_converted_picture_is_upright_and_has_no_orientation(name, alpha):
    image = picture(alpha)
    image.getexif()[0x0112] = 6
    content = encoded(image, name, **({"exif": image.getexif()} if name == "AVIF" else {}))
    file = readable_file(content)
    exported = Image.open(io.BytesIO(file.content))
    assert exported.size == SIZE[::-1] and 0x0112 not in exported.getexif() and not file.turned
    assert difference(decode(file.content), decode(content)) < 12


def test_a_colour_profile_is_kept():
    content = encoded(picture(), "AVIF", icc_profile=b"profile")
    assert Image.open(io.BytesIO(readable_file(content).content)).info["icc_profile"] == b"profile"


@pytest.mark.parametrize(
    "contents, extension",
    [
        ({"a__png": "PNG", "b__PNG": "PNG"}, "png"),
        ({"a__webp": "WEBP"}, "webp"),
        ({"a__jpeg": "JPEG", "b__jpg": "JPEG"}, "jpg"),
        # Names that say nothing: the first picture decides.
        ({"a": "PNG", "b__5": "PNG"}, "png"),
        # Names that are wrong.
        ({"a__jpg": "PNG", "b__jpg": "JPEG"}, "jpg"),
        ({"a__heic": "HEIF"}, "jpg"),
        ({"a__tif": "TIFF", "b__png": "PNG"}, "jpg"),
    ],
)
def test_all_pictures_of_a_webdataset_have_one_extension(contents, extension, export, tmp_path):
    rows = rows_of(tmp_path / "photos", **{name: encoded(picture(), kind) for name, kind in contents.items()})
    folder, left = export("webdataset", rows)
    with tarfile.open(folder / "000000.tar") as tar:
        assert [name.rpartition(".")[2] for name in tar.getnames()] == [extension, "json"] * len(rows)
    assert left[formats.OTHER_FORMAT] == sum(ENDINGS[kind] not in (extension, "heic") for kind in contents.values())


def test_pictures_with_an_orientation_are_counted_for_webdataset_and_turned_by_datasets(export, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = rows_of(tmp_path / "photos", a__jpg=encoded(picture(), "JPEG", exif=exif), b__jpg=encoded(picture(), "JPEG"))
    folder, left = export("webdataset", rows, "tars")
    assert left == {formats.TURNED: 1} and read_with_webdataset(folder)["a.jpg"].size == SIZE
    folder, left = export("imagefolder", rows, "folder")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert not left and {row["filename"]: row["image"].size for row in loaded} == {"a.jpg": SIZE[::-1], "b.jpg": SIZE}


def test_a_picture_that_lacks_its_decoder_here_is_left_out_and_told(export, tmp_path):
    rows = rows_of(tmp_path / "photos", a__heic=encoded(picture(), "HEIF"), b__jpg=encoded(picture(), "JPEG"))
    (tmp_path / "photos" / "a.heic").write_bytes(b"not a picture")
    rows[0] = with_digest(rows[0])
    with pytest.raises(UndecodableError):
        readable_file(b"not a picture")
    (problem,) = export("imagefolder", rows)[1]
    assert problem.startswith("can't be decoded here: ")
