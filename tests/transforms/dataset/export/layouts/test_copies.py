"""Copies of pictures beside their texts, for trainers that read a folder of pictures and texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from support.data.small_outputs import draw_row, in_archive, with_digest

from moondream_beam.transforms.dataset.export.layouts.sidecar import (
    ANOTHER_PICTURE,
    IN_CONTAINER,
    METADATA,
    SAME_TEXT,
    SHARES_NAME,
)
from moondream_beam.transforms.dataset.export.pictures.convert import Wanted
from moondream_beam.transforms.dataset.export.pictures.fetched import CHANGED, GONE
from moondream_beam.transforms.dataset.export.pictures.notes import CONVERTED, MADE_UPRIGHT
from moondream_beam.transforms.dataset.export.targets import write_once
from moondream_beam.transforms.dataset.export.texts import TextOptions

COPIES = TextOptions(copies=Wanted(upright=True))


@pytest.fixture
def captions(tmp_path):
    """Captions of three pictures, each with a file."""
    return [draw_row(tmp_path / "photos", name, caption=f"This is {name}.") for name in ("a.jpg", "b.png", "sub/c.jpg")]


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_picture_has_a_copy_of_the_same_name_beside_its_text(export, captions):
    folder, left = export("sidecar", captions, texts=COPIES)
    assert not left and files_of(folder) == {"a.jpg", "a.txt", "b.png", "b.txt", "sub/c.jpg", "sub/c.txt"}
    for row in captions:
        assert (folder / row.filename).read_bytes() == Path(row.uri).read_bytes()
        assert (folder / row.filename).with_suffix(".txt").read_text() == f"This is {row.filename}.\n"
    assert export("sidecar", captions, texts=COPIES) == (folder, {SAME_TEXT: 3})


def test_a_picture_in_an_archive_has_a_copy_that_kohya_finds(export, captions, tmp_path):
    row = in_archive(captions[0], tmp_path / "set.tar")
    folder, left = export("kohya", [row], texts=COPIES)
    assert not left and files_of(folder) == {"a.jpg", "a.txt", METADATA}
    assert json.loads((folder / METADATA).read_text()) == {str(folder / "a.jpg"): {"caption": "This is a.jpg."}}
    assert export("sidecar", [row], "without")[1] == {IN_CONTAINER: 1}


def test_a_picture_that_lies_in_the_folder_is_not_copied(export, captions, tmp_path):
    elsewhere = draw_row(tmp_path / "elsewhere", "d.jpg", caption="This is d.jpg.")
    folder, left = export("sidecar", [*captions, elsewhere], "photos", texts=COPIES._replace(extension=".caption"))
    assert not left
    assert files_of(folder) == {
        *("a.jpg", "a.caption", "b.png", "b.caption", "sub/c.jpg", "sub/c.caption"),
        *("d.jpg", "d.caption"),
    }


def test_another_picture_in_the_place_of_a_copy_is_kept_and_gets_no_text(export, captions, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.jpg").write_bytes(b"another")
    folder, left = export("sidecar", captions[:2], texts=COPIES)
    assert left == {ANOTHER_PICTURE: 1} and files_of(folder) == {"a.jpg", "b.png", "b.txt"}
    assert (folder / "a.jpg").read_bytes() == b"another"


def test_a_picture_that_is_gone_or_changed_has_no_text(export, captions):
    Path(captions[0].uri).unlink()
    Image.new("RGB", (9, 9)).save(captions[1].uri)
    folder, left = export("sidecar", captions, texts=COPIES)
    assert left == {GONE: 1, CHANGED: 1} and files_of(folder) == {"sub/c.jpg", "sub/c.txt"}


def test_pictures_that_share_a_name_have_their_keys_in_both_names(export, tmp_path):
    rows = [draw_row(tmp_path / "photos", name, caption="One.") for name in ("a.jpg", "a.png")]
    folder, left = export("sidecar", rows, texts=COPIES)
    names = files_of(folder)
    assert left == {SHARES_NAME: 2} and len(names) == 4
    assert {name.rpartition(".")[0] + ".txt" for name in names} == {name for name in names if name.endswith(".txt")}


def test_text_and_copy_of_a_long_name_have_the_same_stem(export, tmp_path):
    row = draw_row(tmp_path / "photos", f"{'n' * 251}.jpg", caption="Long.")
    folder, left = export("sidecar", [row], texts=COPIES._replace(extension=".description"))
    assert not left and {Path(name).stem for name in files_of(folder)} == {"n" * 243}


def test_a_copy_is_upright_and_of_the_format_that_is_asked_for(export, tmp_path):
    row = draw_row(tmp_path / "photos", "turned.jpg", caption="A field.")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((40, 30)).save(row.uri, exif=exif)
    row = with_digest(row)._replace(width=30, height=40)
    folder, left = export("sidecar", [row], texts=COPIES)
    with Image.open(folder / "turned.jpg") as copy:
        assert left == {MADE_UPRIGHT: 1} and copy.size == (30, 40)
    folder, left = export("sidecar", [row], "small", texts=TextOptions(copies=Wanted(20, "WEBP", upright=True)))
    with Image.open(folder / "turned.webp") as copy:
        assert CONVERTED in left and copy.size == (15, 20)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_a_copy_in_a_bucket_is_written_once(kind, bucket_of):
    folder = f"{bucket_of(kind).root}/copies"
    assert [write_once(folder, "sub/a.jpg", content) for content in (b"one", b"one", b"two", b"on")] == [
        *(True, True, False, False),
    ]
