"""Pictures to look at."""

from __future__ import annotations

import io

import numpy as np
from outputs import draw_row, publish, row_of, some_of_each
from PIL import Image

from moondream_beam.transforms import gallery
from moondream_beam.transforms.dataset import Dataset


def shown(out):
    with Dataset(str(out)) as dataset:
        pictures = gallery.choose(dataset)
    gallery.add_thumbnails(pictures)
    return pictures


def test_every_picture_of_a_few_is_shown_with_its_rows(tmp_path):
    pictures = {picture.filename: picture for picture in shown(publish(tmp_path / "out", *some_of_each(tmp_path)))}
    assert set(pictures) == {"a.jpg", "b.png", "sub/c.jpg", "gone.jpg"}
    assert [row["task"] for row in pictures["a.jpg"].rows] == ["caption", "detect", "point", "query"]
    assert pictures["gone.jpg"].chosen == ["random", "empty", "cut off"]


def test_a_picture_that_is_gone_or_changed_says_so(tmp_path):
    rows = [draw_row(tmp_path, "a.jpg"), row_of(tmp_path / "gone.jpg", "gone.jpg")]
    (tmp_path / "text.jpg").write_text("no picture")
    rows.append(row_of(tmp_path / "text.jpg", "text.jpg"))
    troubles = {picture.filename: picture.trouble for picture in shown(publish(tmp_path / "out", *rows))}
    # The digest of the made-up row is none of any file.
    assert troubles == {
        "a.jpg": "has changed since",
        "gone.jpg": "can't be had from here",
        "text.jpg": "is no picture any more",
    }


def test_of_many_pictures_some_are_shown_and_always_the_same(tmp_path):
    rows = [row_of(tmp_path / f"{index}.jpg", f"{index}.jpg", caption="") for index in range(200)]
    out = publish(tmp_path / "out", *rows)
    pictures = shown(out)
    assert gallery.RANDOM_PICTURES <= len(pictures) <= gallery.RANDOM_PICTURES + gallery.SUSPICIOUS_PICTURES
    assert [picture.key for picture in shown(out)] == [picture.key for picture in pictures]


def test_of_many_rows_the_suspicious_come_first(tmp_path):
    rows = [row_of(tmp_path / "a.jpg", "a.jpg", prompt=f"p{index}") for index in range(10)]
    rows.append(row_of(tmp_path / "a.jpg", "a.jpg", prompt="z", caption=""))
    (picture,) = shown(publish(tmp_path / "out", *rows))
    assert picture.rows[0]["prompt"] == "z"
    assert (len(picture.rows), picture.more_rows) == (gallery.ROWS_OF_A_PICTURE, 11 - gallery.ROWS_OF_A_PICTURE)


def test_a_thumbnail_of_noise_keeps_to_its_bytes():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8))
    small = gallery.thumbnail(noise)
    assert len(small) <= gallery.THUMBNAIL_BYTES
    assert Image.open(io.BytesIO(small)).size == (gallery.THUMBNAIL_SIDE, gallery.THUMBNAIL_SIDE)
