"""Boxes, points and texts for YOLO, Label Studio and FiftyOne, to a thousandth of the picture.

None of these packages is installed. The files are checked against the schemas that they document.
"""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from PIL import Image
from support.data.small_outputs import draw_row

from moondream_beam.models.tasks import Box, Spot
from moondream_beam.transforms.dataset.export.layouts.fiftyone import NO_FILE
from moondream_beam.transforms.dataset.export.layouts.placing import LayoutOptions
from moondream_beam.transforms.dataset.export.layouts.splits import Splits
from moondream_beam.transforms.dataset.export.layouts.yolo import NO_AREA, SAME_BOX
from moondream_beam.transforms.dataset.export.pictures.fetched import GONE

NO_IMAGES = LayoutOptions(along="no")
CUP, DOG = Box(0.1, 0.2, 0.35, 0.8), Box(0.015625, 0.0, 1.0, 0.5)


@pytest.fixture
def found(tmp_path):
    """Three pictures: with boxes of two prompts and a point, with a box, and with none."""

    def detect(name, prompt, *boxes):
        size = (64, 48)
        return draw_row(tmp_path / "photos", name, size, task="detect", prompt=prompt, caption=None, objects=boxes)

    return [
        detect("a.jpg", "a: dog # big", DOG),
        detect("a.jpg", "cup", CUP, CUP._replace(x_max=0.4)),
        draw_row(tmp_path / "photos", "a.jpg", (64, 48), task="point", prompt="nose", caption=None,
                 points=(Spot(0.25, 0.75),)),
        draw_row(tmp_path / "photos", "a.jpg", (64, 48), task="query", prompt='Is "it" <big> & red?', caption="Yes."),
        detect("b.png", "cup", CUP),
        detect("c.jpg", "cup"),
    ]  # fmt: skip


def read_yolo(folder):
    """Return the boxes of each picture as ``(prompt, x_min, y_min, x_max, y_max)``, by its size and format."""
    data = yaml.safe_load((folder / "data.yaml").read_text())
    found = {}
    for split in {data["train"], data["val"]}:
        for path in (folder / split).rglob("*.*"):
            label = folder / split.replace("images", "labels") / path.relative_to(folder / split).with_suffix(".txt")
            boxes = []
            for line in label.read_text().splitlines():
                number, x, y, width, height = line.split()
                x, y, width, height = map(float, (x, y, width, height))
                boxes.append((data["names"][int(number)], x - width / 2, y - height / 2, x + width / 2, y + height / 2))
            found[path.stem] = boxes
    return data, found


def near(name, box):
    return (name, *(pytest.approx(value, abs=1e-3) for value in box))


def test_yolo_labels_lie_where_ultralytics_looks_for_them_with_the_boxes(export, found):
    folder, left = export("yolo", found)
    data, boxes = read_yolo(folder)
    assert not left and data["names"] == {0: "a: dog # big", 1: "cup"} and data["nc"] == 2
    assert (folder / "classes.txt").read_text().splitlines() == ["a: dog # big", "cup"]
    expected = [
        [],
        [near("cup", CUP)],
        [near("a: dog # big", DOG), near("cup", CUP), near("cup", CUP._replace(x_max=0.4))],
    ]
    assert sorted(boxes.values(), key=len) == expected


def test_yolo_has_the_splits_and_a_val_that_ultralytics_demands(export, found):
    folder, left = export(
        "yolo", found, options=LayoutOptions(splits=Splits(("train", "val", "test"), (0.4, 0.3, 0.3)))
    )
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert [data[name] for name in ("train", "val", "test")] == ["images/train", "images/val", "images/test"]
    assert sum(left.values()) == 3
    data = yaml.safe_load((export("yolo", found, "one")[0] / "data.yaml").read_text())
    assert data["train"] == data["val"] == "images/train"


def test_a_box_without_an_area_and_a_box_that_is_there_twice_are_told(export, found):
    rows = [found[4]._replace(objects=(CUP, CUP, Box(0.5, 0.5, 0.5, 0.9)))]
    folder, left = export("yolo", rows)
    (boxes,) = read_yolo(folder)[1].values()
    assert boxes == [near("cup", CUP)] and left == {NO_AREA: 1, SAME_BOX: 1}


def test_a_picture_that_is_gone_has_no_label_and_is_told(export, found, tmp_path):
    (tmp_path / "photos" / "b.png").unlink()
    folder, left = export("yolo", found)
    assert left == {GONE: 1} and len(read_yolo(folder)[1]) == 2


@pytest.mark.parametrize("kind", ["yolo", "fiftyone"])
def test_a_format_for_boxes_needs_a_detection(kind, export, found, tmp_path):
    with pytest.raises(ValueError, match=f"{kind} needs boxes"):
        export(kind, found, where="task = 'query'")
    assert not (tmp_path / "there").exists()


def test_label_studio_tasks_hold_every_answer_in_the_units_and_names_of_its_interface(export, found):
    folder, left = export("labelstudio", found)
    tasks = json.loads((folder / "train.json").read_text())
    interface = ElementTree.parse(folder / "config.xml").getroot()
    controls = {tag.get("name"): tag for tag in interface if tag.get("toName") == "image"}
    assert not left and len(tasks) == 3 and interface.find("Image").get("value") == "$image"
    ids = set()
    for task in tasks:
        assert task["data"]["image"].startswith("/data/local-files/?d=images/train/")
        assert (folder / task["data"]["image"].partition("=")[2]).exists()
        for result in task["predictions"][0]["result"]:
            control = controls[result["from_name"]]
            assert result["type"] == control.tag.lower() and result["to_name"] == "image"
            ids.add(result["id"])
            if result["type"] != "textarea":
                assert result["value"][result["type"]][0] in {label.get("value") for label in control}
                assert (result["original_width"], result["original_height"], result["image_rotation"]) == (64, 48, 0)
    assert len(ids) == sum(len(task["predictions"][0]["result"]) for task in tasks) == 6
    dog, _, _, nose, text = tasks[0]["predictions"][0]["result"]
    assert [dog["value"][name] for name in ("x", "y", "width", "height")] == pytest.approx([1.5625, 0, 98.4375, 50])
    assert (nose["value"]["x"], nose["value"]["y"]) == (25, 75) and text["value"] == {"text": ["Yes."]}
    assert controls[text["from_name"]].tag == "TextArea" and tasks[0]["predictions"][0]["model_version"] == "echo"


def test_label_studio_names_remote_pictures_by_their_url_if_they_stay_there(export, found):
    rows = [found[4]._replace(uri="s3://bucket/b.png"), found[0]._replace(filename="sub/a b.jpg")]
    folder, _ = export("labelstudio", rows, options=NO_IMAGES)
    images = {task["data"]["image"] for task in json.loads((folder / "train.json").read_text())}
    assert images == {"s3://bucket/b.png", "/data/local-files/?d=sub/a%20b.jpg"}


def test_fiftyone_finds_each_picture_by_its_name_with_its_boxes(export, found):
    folder, left = export("fiftyone", found)
    labels = json.loads((folder / "labels.json").read_text())
    assert not left and labels["classes"] == ["a: dog # big", "cup"]
    pictures = {str(p.relative_to(folder / "data").with_suffix("")): p for p in (folder / "data").rglob("*.*")}
    assert set(labels["labels"]) == set(pictures)
    assert all(Image.open(io.BytesIO(path.read_bytes())).size == (64, 48) for path in pictures.values())
    listed = max(labels["labels"].values(), key=len)
    assert [(box["label"], *box["bounding_box"]) for box in listed] == [
        near("a: dog # big", (0.015625, 0, 0.984375, 0.5)),
        near("cup", (0.1, 0.2, 0.25, 0.6)),
        near("cup", (0.1, 0.2, 0.3, 0.6)),
    ]
    assert {box["attributes"]["model"] for box in listed} == {"echo"}


def test_fiftyone_opens_pictures_that_stay_where_they_are_by_their_absolute_paths(export, found, tmp_path):
    rows = [*found, draw_row(tmp_path / "photos", "d.jpg", task="detect", objects=())._replace(uri="s3://bucket/d.jpg")]
    folder, left = export("fiftyone", rows, options=NO_IMAGES)
    labels = json.loads((folder / "labels.json").read_text())["labels"]
    assert left == {NO_FILE: 1} and set(labels) == {f"{tmp_path}/photos/{name}" for name in ("a.jpg", "b.png", "c.jpg")}
