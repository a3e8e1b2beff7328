"""Readers give every column its name, its type and its values, whatever the manifest and the first rows hold."""

from __future__ import annotations

import gc
import json
import warnings

import datasets
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.json
import pytest
import webdataset
from support.data.small_outputs import draw_row, with_digest

from moondream_beam.models.tasks import Box
from moondream_beam.transforms.dataset.export.names import key_name, rename_fields, rename_reserved

BOX = {"x_min": 0.25, "y_min": 0.25, "x_max": 0.5, "y_max": 0.75}


@pytest.fixture
def load(tmp_path):
    """Return a function that loads an export with `datasets`."""

    def run(kind, folder):
        where = (
            {"data_dir": str(folder)} if kind == "imagefolder" else {"data_files": sorted(map(str, folder.iterdir()))}
        )
        return datasets.load_dataset(kind, split="train", cache_dir=str(tmp_path / "cache"), **where)

    return run


@pytest.fixture
def late(tmp_path):
    """110 pictures. Only the last of them has a box, a text, and values in the manifest's columns."""
    rows = []
    for number in range(110):
        last, path = number == 109, (tmp_path / "photos", f"{number:03}.jpg", (8, 8))
        kept = ({"a": 1.5, "b": ["x"]}, 7, "late") if last else ({"a": None, "b": []}, None, None)
        boxes = (Box(*BOX.values()),) if last else ()
        rows.append(draw_row(*path, task="detect", prompt="cat", caption=None, objects=boxes, columns=kept))
        if last:
            rows.append(draw_row(*path, caption="A picture.", columns=kept))
    return [with_digest(row) for row in rows]


KEPT = (
    pa.field("meta", pa.struct([("a", pa.float64()), ("b", pa.list_(pa.string()))])),
    pa.field("price", pa.int64()),
    pa.field("note", pa.string()),
)


def check(rows):
    """Check the values of the last picture, and that the others have none."""
    found = {row["filename"]: row for row in rows}
    last = found.pop("109.jpg")
    assert [dict(box) for box in last["detect_cat"]] == [BOX]
    assert (last["caption_normal"], last["price"], last["note"]) == ("A picture.", 7, "late")
    assert last["meta"]["a"] == 1.5 and list(last["meta"]["b"]) == ["x"]
    assert len(found) == 109 and not any(len(row["detect_cat"]) for row in found.values())


JSON_READERS = {
    "polars": lambda path: polars.read_ndjson(path).to_dicts(),
    "polars lazily": lambda path: polars.scan_ndjson(path).collect().to_dicts(),
    "duckdb": lambda path: (
        duckdb.sql(f"SELECT * FROM read_json('{path}', sample_size = 5)").to_arrow_table().to_pylist()
    ),
    "pandas": lambda path: pandas.read_json(path, lines=True).to_dict("records"),
    "pyarrow": lambda path: pyarrow.json.read_json(
        path, pyarrow.json.ReadOptions(use_threads=False, block_size=4096)
    ).to_pylist(),
}


@pytest.mark.parametrize("reader", JSON_READERS)
def test_json_lines_whose_first_rows_have_no_values_keep_their_types(reader, export, late):
    path, _ = export("jsonl", late, kept=KEPT)
    check(JSON_READERS[reader](str(path)))


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_datasets_types_columns_whose_first_rows_have_no_values(kind, export, load, late):
    folder, left = export(kind, late, kept=KEPT)
    loaded = load(kind, folder)
    assert not left
    check(loaded if kind == "imagefolder" else [row["json"] for row in loaded])
    assert loaded[0]["image" if kind == "imagefolder" else "jpg"].size == (8, 8)


def test_rows_stay_in_the_order_of_names_if_the_first_have_all_values(export, rows):
    path, _ = export("jsonl", rows)
    assert [json.loads(line)["filename"] for line in path.read_text().splitlines()] == ["a.jpg", "b.png", "sub/c.jpg"]


def test_of_columns_that_no_row_has_all_at_once_some_rows_of_each_come_first(export, tmp_path):
    rows = []
    for number in range(30):
        value = (number, None) if number == 20 else (None, "x") if number == 25 else (None, None)
        rows.append(draw_row(tmp_path / "photos", f"{number:02}.jpg", (8, 8), columns=value))
    path, _ = export("jsonl", rows, kept=[pa.field("price", pa.int64()), pa.field("note", pa.string())])
    names = [json.loads(line)["filename"] for line in path.read_text().splitlines()]
    assert set(names[:2]) == {"20.jpg", "25.jpg"} and names[2:] == sorted(set(names) - {"20.jpg", "25.jpg"})


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
def test_types_stay_right_if_the_first_picture_with_values_is_gone(kind, export, load, tmp_path):
    rows = []
    for number in range(40):
        boxes = (Box(*BOX.values()),) if number >= 38 else ()
        values = {"task": "detect", "prompt": "cat", "caption": None, "objects": boxes, "columns": (number,)}
        rows.append(with_digest(draw_row(tmp_path / "photos", f"{number:02}.jpg", (8, 8), **values)))
    kept = [pa.field("price", pa.int64())]
    export("jsonl", rows, "order.jsonl", kept=kept)
    first = json.loads((tmp_path / "order.jsonl").read_text().splitlines()[0])["filename"]
    (tmp_path / "photos" / first).unlink()
    folder, left = export(kind, rows, kept=kept)
    assert left == {"can't be fetched": 1}
    loaded = [row if kind == "imagefolder" else row["json"] for row in load(kind, folder)]
    found = [row["filename"] for row in loaded if row["detect_cat"]]
    assert len(loaded) == 39 and found == [name for name in ("38.jpg", "39.jpg") if name != first]


RESERVED = ("file_name", "image", "thumb_file_name", "file_names", "x_file_names", "__key__", "__url__", "jpg", "json")
RESERVED_TYPES = [pa.list_(pa.string()) if name.endswith("s") else pa.string() for name in RESERVED]
NESTED = pa.field(
    "source", pa.struct([("file_name", pa.string()), ("parts", pa.list_(pa.struct([("a_file_name", pa.string())])))])
)


@pytest.fixture
def reserved(tmp_path):
    """Three pictures with columns that have names which readers reserve, and a question of such a name."""
    rows = []
    for number in range(3):
        values = [[f"{name} {number}"] if name.endswith("s") else f"{name} {number}" for name in RESERVED]
        nested = {"file_name": f"n{number}", "parts": [{"a_file_name": "p"}]}
        row = {"task": "query", "prompt": "File name?", "caption": f"answer {number}", "columns": (*values, nested)}
        rows.append(with_digest(draw_row(tmp_path / "photos", f"{number}.jpg", (8 + number, 8), **row)))
    return rows


@pytest.fixture
def kept():
    """The fields of the columns of ``reserved``."""
    return [*(pa.field(name, kind) for name, kind in zip(RESERVED, RESERVED_TYPES, strict=True)), NESTED]


def test_an_imagefolder_has_all_columns_beside_its_pictures(export, load, reserved, kept):
    folder, left = export("imagefolder", reserved, kept=kept)
    loaded = {row["filename"]: row for row in load("imagefolder", folder)}
    assert len(loaded) == 3
    for number in range(3):
        row = loaded[f"{number}.jpg"]
        assert row["image"].size == (8 + number, 8)
        assert row["query_file_name_2"] == f"answer {number}"
        assert [row[f"{name}_2"] for name in RESERVED[:3]] == [f"{name} {number}" for name in RESERVED[:3]]
        assert [row[f"{name}_2"] for name in RESERVED[3:5]] == [[f"{name} {number}"] for name in RESERVED[3:5]]
        assert [row[name] for name in RESERVED[5:]] == [f"{name} {number}" for name in RESERVED[5:]]
        assert row["source"] == {"file_name_2": f"n{number}", "parts": [{"a_file_name_2": "p"}]}
    assert set(left.values()) == {3} and len(left) == 7
    assert any("column file_name as file_name_2" in note for note in left)


def test_a_webdataset_has_all_columns_in_its_json(export, load, reserved, kept):
    folder, left = export("webdataset", reserved, kept=kept)
    assert not left
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        # It leaves its tars to the garbage collector.
        samples = list(webdataset.WebDataset([str(folder / "000000.tar")], shardshuffle=False).decode("pil"))
        gc.collect()
    for found in (samples, list(load("webdataset", folder))):
        for sample in found:
            number = sample["json"]["filename"][0]
            assert sample["jpg"].size == (8 + int(number), 8)
            assert sample["json"]["__key__"] == f"__key__ {number}" and sample["json"]["jpg"] == f"jpg {number}"
            assert sample["__key__"] == key_name(sample["json"]["key"])
            assert sample["json"]["image"] == f"image {number}"


@pytest.mark.parametrize("reader", JSON_READERS)
def test_json_lines_have_all_columns(reader, export, reserved, kept):
    path, left = export("jsonl", reserved, kept=kept)
    assert not left
    found = {row["filename"]: row for row in JSON_READERS[reader](str(path))}
    assert [found["1.jpg"][name] for name in RESERVED[:3]] == [f"{name} 1" for name in RESERVED[:3]]
    assert found["1.jpg"]["source"]["file_name"] == "n1"


def test_sidecar_texts_do_not_depend_on_the_names_of_columns(export, reserved, kept):
    folder, left = export("sidecar", reserved, kept=kept)
    assert not left and (folder / "1.txt").read_text() == "answer 1\n"


def test_a_new_name_is_no_other_column():
    assert rename_reserved(["file_name", "FILE_NAME_2", "images", "profile_name"]) == {"file_name": "file_name_3"}
    assert rename_fields({"file_name": 1, "file_name_2": 2}) == {"file_name_3": 1, "file_name_2": 2}
