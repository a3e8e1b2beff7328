"""Splits of formats that are read as a whole: each reader finds the pictures of each split, and their columns."""

from __future__ import annotations

import gc
import json
import warnings

import datasets
import pytest
import webdataset
from pycocotools.coco import COCO
from support.data.small_outputs import draw_row, row_of

from moondream_beam.models.tasks import Box
from moondream_beam.transforms.dataset.export.layouts.placing import LayoutOptions
from moondream_beam.transforms.dataset.export.layouts.splits import parse_splits
from moondream_beam.transforms.dataset.export.pictures.convert import Wanted

SPLITS = parse_splits("train=0.5,val=0.3,holdout=0.2")
OPTIONS = LayoutOptions(wanted=Wanted(), splits=SPLITS)


@pytest.fixture
def many(tmp_path):
    """Fourteen pictures with a caption each, every second one with a box."""
    rows = []
    for number in range(14):
        row = draw_row(tmp_path / "photos", f"{number}.png", (40 + number, 30))
        rows.append(row)
        if number % 2:
            boxed = row_of(
                tmp_path / "photos" / f"{number}.png", row.filename, task="detect", prompt="cat", caption=None
            )
            box = {"objects": (Box(0.25, 0.5, 0.75, 1.0),), "sha256": row.sha256}
            rows.append(boxed._replace(width=row.width, height=row.height, **box))
    return rows


def expected(rows):
    """Return the names of the pictures in each split."""
    by_name = {row.filename: SPLITS.choose({"sha256": row.sha256, "key": row.key}) for row in rows}
    return {split: {name for name, chosen in by_name.items() if chosen == split} for split in SPLITS.names}


def test_the_splits_are_not_empty(many):
    assert all(expected(many).values())


def test_datasets_loads_the_splits_of_an_imagefolder(export, many, tmp_path):
    folder, left = export("imagefolder", many, options=OPTIONS)
    assert sum(count for reason, count in left.items() if "split" in reason) == 14
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: {row["filename"] for row in rows} for split, rows in loaded.items()} == expected(many)
    assert {row["image"].size == (row["width"], row["height"]) for rows in loaded.values() for row in rows} == {True}


def test_webdataset_reads_the_tars_of_each_split(export, many):
    folder, _ = export("webdataset", many, options=OPTIONS)
    assert sorted(path.name for path in folder.iterdir()) == [f"{split}-000000.tar" for split in sorted(SPLITS.names)]
    for split, names in expected(many).items():
        with warnings.catch_warnings():
            # It leaves its tars to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            samples = list(webdataset.WebDataset(f"{folder}/{split}-000000.tar", shardshuffle=False).decode("pil"))
            gc.collect()
        assert {sample["json"]["filename"] for sample in samples} == names


def test_datasets_loads_the_lines_of_each_split_and_all_columns(export, many, tmp_path):
    export("jsonl", many, "rows.jsonl", splits=SPLITS)
    files = {split: f"{tmp_path}/rows-{split}.jsonl" for split in SPLITS.names}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: {row["filename"] for row in rows} for split, rows in loaded.items()} == expected(many)
    assert sum(row["detect_cat"] is not None for rows in loaded.values() for row in rows) == 7


def test_pycocotools_reads_the_boxes_of_each_split(export, many, tmp_path):
    export("coco", many, "boxes.json", splits=SPLITS)
    ids = []
    for split, names in expected(many).items():
        coco = COCO(f"{tmp_path}/boxes-{split}.json")
        odd = {name for name in names if int(name.removesuffix(".png")) % 2}
        assert {image["file_name"] for image in coco.imgs.values()} == odd
        for box in coco.anns.values():
            image = coco.imgs[box["image_id"]]
            assert box["bbox"] == pytest.approx([image["width"] / 4, 15, image["width"] / 2, 15], abs=0.01)
        assert [category["name"] for category in coco.cats.values()] == ["cat"]
        ids += coco.anns
    assert len(set(ids)) == len(ids) == 7


def test_a_split_without_pictures_is_an_empty_file(export, many, tmp_path):
    splits = parse_splits("train=0.999999,val=0.000001")
    export("coco", many, "boxes.json", splits=splits)
    assert json.loads((tmp_path / "boxes-val.json").read_text())["images"] == []
    export("jsonl", many, "rows.jsonl", splits=splits)
    assert (tmp_path / "rows-val.jsonl").read_bytes() == b""
