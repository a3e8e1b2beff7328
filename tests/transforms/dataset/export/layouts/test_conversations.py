"""Conversations have each picture once, with its texts, as LLaVA, LLaMA-Factory, ms-swift and TRL read them.

TRL reads with `datasets`, which is installed. The files of the others are checked against their documented schemas.
"""

from __future__ import annotations

import io
import json

import datasets
import pytest
from PIL import Image
from support.data.small_outputs import draw_row, in_archive, with_digest

from moondream_beam.transforms.dataset.export.layouts.conversations import HAS_MARKER, SOME_EMPTY
from moondream_beam.transforms.dataset.export.layouts.placing import (
    CANT_LINK,
    IN_CONTAINER,
    LINKED_TURNED,
    LayoutOptions,
)
from moondream_beam.transforms.dataset.export.layouts.splits import Splits
from moondream_beam.transforms.dataset.export.pictures.notes import MADE_UPRIGHT, NO_TEXT

LINK, NO_IMAGES = LayoutOptions(along="link"), LayoutOptions(along="no")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def turned(tmp_path):
    """A row about a picture of 40 x 30 pixels with an EXIF orientation. Upright, the picture has 30 x 40 pixels."""
    row = draw_row(tmp_path / "photos", "turned.jpg", caption="A field.")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((40, 30)).save(row.uri, exif=exif)
    return with_digest(row)._replace(width=30, height=40)


def test_llava_samples_have_the_documented_fields_and_every_text(export, rows):
    folder, left = export("llava", rows)
    samples = json.loads((folder / "train.json").read_text())
    assert not left and [set(sample) for sample in samples] == [{"id", "image", "conversations"}] * 3
    for sample, row in zip(samples, rows[::4], strict=True):
        assert sample["id"] == row.key and (folder / sample["image"]).stat().st_size > 0
        assert sample["conversations"] == [
            {"from": "human", "value": "<image>\nDescribe this image."},
            {"from": "gpt", "value": f"A picture named {row.filename}."},
            {"from": "human", "value": "What is it?"},
            {"from": "gpt", "value": "yes"},
        ]


def test_messages_name_their_picture_once_as_llama_factory_and_ms_swift_demand(export, rows):
    folder, _ = export("messages", rows)
    lines = lines_of(folder / "train.jsonl")
    assert len(lines) == 3
    for line in lines:
        assert [message["role"] for message in line["messages"]] == ["user", "assistant"] * 2
        assert "".join(message["content"] for message in line["messages"]).count("<image>") == len(line["images"]) == 1
        assert (folder / line["images"][0]).exists()


@pytest.mark.parametrize(
    "kind, first", [("llava", ("conversations", "from", "human")), ("messages", ("messages", "role", "user"))]
)
def test_the_entry_for_llama_factory_names_the_files_columns_and_tags(kind, first, export, rows):
    folder, _ = export(kind, rows, options=LayoutOptions(splits=Splits(("train", "val"), (0.5, 0.5))))
    info = json.loads((folder / "dataset_info.json").read_text())
    assert list(info) == ["moondream_beam_train", "moondream_beam_val"]
    entry = info["moondream_beam_train"]
    assert entry["formatting"] == "sharegpt" and (folder / entry["file_name"]).exists()
    assert (entry["columns"]["messages"], entry["tags"]["role_tag"], entry["tags"]["user_tag"]) == first


def test_datasets_loads_the_messages_with_upright_pictures_for_trl(export, rows, turned, tmp_path):
    folder, left = export("messages", [*rows, turned])
    loaded = datasets.load_dataset("imagefolder", data_dir=str(folder / "images"), cache_dir=str(tmp_path / "cache"))
    assert left == {MADE_UPRIGHT: 1} and list(loaded) == ["train"]
    found = {row["messages"][1]["content"]: row for row in loaded["train"]}
    assert set(found) == {"A field.", *(f"A picture named {row.filename}." for row in rows)}
    assert [image.size for image in found["A field."]["images"]] == [(30, 40)]
    assert all("<image>" not in message["content"] for row in found.values() for message in row["messages"])


def test_a_copied_picture_is_upright_without_an_orientation(export, turned):
    folder, _ = export("llava", [turned])
    (copy,) = (folder / "images").rglob("*.jpg")
    image = Image.open(io.BytesIO(copy.read_bytes()))
    assert image.size == (30, 40) and 0x0112 not in image.getexif()
    # The gradient goes from black at the top to white at the bottom, and is turned clockwise.
    assert image.getpixel((2, 20))[0] > 200 > 60 > image.getpixel((27, 20))[0]


def test_a_linked_picture_is_the_file_itself_and_its_orientation_is_told(export, turned, tmp_path):
    folder, left = export("llava", [turned], options=LINK)
    (sample,) = json.loads((folder / "train.json").read_text())
    assert left == {LINKED_TURNED: 1}
    assert (folder / sample["image"]).is_symlink() and (folder / sample["image"]).resolve() == tmp_path / "photos" / (
        "turned.jpg"
    )


def test_a_picture_in_an_archive_cannot_be_linked_and_its_name_is_told(export, rows, tmp_path):
    row = in_archive(rows[0], tmp_path / "a.tar")
    folder, left = export("llava", [row], "linked", options=LINK)
    assert left == {CANT_LINK: 1} and json.loads((folder / "train.json").read_text()) == []
    folder, left = export("llava", [row], "named", options=NO_IMAGES)
    assert left == {IN_CONTAINER: 1} and len(json.loads((folder / "train.json").read_text())) == 1


def test_without_pictures_each_is_named_by_its_path_below_the_input(export, rows):
    folder, left = export("messages", rows, options=NO_IMAGES)
    assert not left and sorted(path.name for path in folder.iterdir()) == ["dataset_info.json", "train.jsonl"]
    assert [line["images"] for line in lines_of(folder / "train.jsonl")] == [["a.jpg"], ["b.png"], ["sub/c.jpg"]]


def test_an_answer_that_a_trainer_would_misread_or_that_is_empty_is_left_out_and_told(export, rows):
    marked = rows[0]._replace(caption="It says <image> on it.")
    empty = [rows[5]._replace(caption=" "), *(row._replace(caption="") for row in (rows[8], rows[9]))]
    folder, left = export("llava", [marked, rows[1], rows[4], *empty])
    samples = json.loads((folder / "train.json").read_text())
    assert left == {HAS_MARKER: 1, SOME_EMPTY: 1, NO_TEXT: 1}
    assert [sample["conversations"][0]["value"] for sample in samples] == [
        "<image>\nWhat is it?",
        "<image>\nDescribe this image.",
    ]


def test_without_a_text_nothing_is_written(export, rows, tmp_path):
    with pytest.raises(ValueError, match="--where"):
        export("llava", rows, where="task = 'detect'")
    assert not list(tmp_path.glob("there*"))
