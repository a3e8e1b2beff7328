"""pycocotools evaluates and draws what the coco format exports."""

from __future__ import annotations

import json

import matplotlib.pyplot as pyplot
import pyarrow as pa
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.data.small_outputs import draw_row

from moondream_beam.models.tasks import Box

SIDES = (0.1, 0.2, 0.4, 0.8)


@pytest.fixture
def detections(tmp_path):
    """Eight pictures with boxes of two categories, and one picture without a box."""
    rows = []
    for number in range(8):
        boxes = tuple(Box(0.1 * n, 0.05, 0.1 * n + 0.1, 0.05 + SIDES[number % 4]) for n in range(number % 3 + 1))
        values = {"prompt": "cat" if number % 2 else "dog", "caption": None, "objects": boxes}
        rows.append(draw_row(tmp_path / "photos", f"{number}.jpg", (640, 480), task="detect", **values))
    return [*rows, draw_row(tmp_path / "photos", "none.jpg", task="detect", prompt="cat", caption=None, objects=())]


def evaluate(truth, found):
    """Return the mean AP of detections."""
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_the_exported_boxes_have_an_ap_of_1_against_themselves(export, detections):
    truth = COCO(export("coco", detections)[0])
    found = [
        {**{name: box[name] for name in ("image_id", "category_id", "bbox")}, "score": 0.9}
        for box in truth.dataset["annotations"]
    ]
    assert len(found) == 15
    assert evaluate(truth, found) == 1.0
    # The first annotation counts too: COCOeval takes an annotation with id 0 for a missed one.
    assert evaluate(truth, found[1:]) < 1.0


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_ids_count_from_1(kind, export, detections):
    path, _ = export("coco", detections)
    listed = json.loads(path.read_text())[kind]
    assert [entry["id"] for entry in listed] == list(range(1, len(listed) + 1))


def test_boxes_are_drawn(export, detections):
    coco = COCO(export("coco", detections)[0])
    image = next(image for image in coco.dataset["images"] if image["file_name"] == "2.jpg")
    pyplot.switch_backend("agg")
    coco.showAnns(coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])), draw_bbox=True)
    drawn = pyplot.gca().collections
    pyplot.close()
    assert [len(collection.get_paths()) for collection in drawn] == [3, 3]


def test_columns_of_a_manifest_do_not_replace_those_of_coco(export, detections):
    names = ("file_name", "image", "bbox", "categories")
    path, _ = export(
        "coco", [row._replace(columns=names) for row in detections], kept=[pa.field(n, pa.string()) for n in names]
    )
    coco = COCO(path)
    assert {image["file_name"] for image in coco.dataset["images"]} == {row.filename for row in detections}
    assert all(len(box["bbox"]) == 4 for box in coco.dataset["annotations"])
