"""The tools that each format is for read the same pictures and the same texts."""

from __future__ import annotations

import gc
import json
import os
import tarfile
import warnings
from contextlib import ExitStack
from pathlib import Path

import datasets
import duckdb
import polars
import pytest
import webdataset
from PIL import Image
from pycocotools.coco import COCO
from support.data.rows import annotation
from support.data.small_outputs import HOSTILE, draw_row, row_of, with_digest

from moondream_beam.models.tasks import Box
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.dataset.export import formats
from moondream_beam.transforms.dataset.export.layouts import sidecar
from moondream_beam.transforms.dataset.export.names import key_name
from moondream_beam.transforms.dataset.export.pictures import tars
from moondream_beam.transforms.dataset.export.pictures.fetched import UNKEPT
from moondream_beam.transforms.inputs.patterns.patterns import list_archive


def test_datasets_loads_an_imagefolder(export, rows, tmp_path):
    # Names that datasets would take for splits.
    for index, name in enumerate(("train.jpg", "test/a.jpg", "my-validation.png")):
        rows.append(with_digest(draw_row(tmp_path / "photos", name, caption=HOSTILE[index])))
    folder, left = export("imagefolder", rows)
    assert not left
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"] and len(loaded["train"]) == 6
    by_name = {row["filename"]: row for row in loaded["train"]}
    assert by_name["a.jpg"]["image"].size == (40, 30) and by_name["a.jpg"]["query_what_is_it"] == "yes"
    assert by_name["a.jpg"]["detect_cat"] == [{"x_min": 0.25, "y_min": 0.5, "x_max": 0.75, "y_max": 1.0}] * 2
    assert [by_name[name]["caption_normal"] for name in ("train.jpg", "test/a.jpg")] == list(HOSTILE[:2])


def test_webdataset_reads_its_tars(export, rows, monkeypatch):
    monkeypatch.setattr(tars, "MAX_TAR_PICTURES", 2)
    folder, left = export("webdataset", rows)
    names = sorted(str(path) for path in folder.iterdir())
    assert left == {formats.OTHER_FORMAT: 1} and [Path(tar).name for tar in names] == ["000000.tar", "000001.tar"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        # It leaves its tars to the garbage collector.
        samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("pil"))
        gc.collect()
    assert {(s["json"]["filename"], s["json"]["caption_normal"]) for s in samples} == {
        (name, f"A picture named {name}.") for name in ("a.jpg", "b.png", "sub/c.jpg")
    }
    assert all(
        s.get("jpg", s.get("png")).size == (40, 30) and s["__key__"] == key_name(s["json"]["key"]) for s in samples
    )


def test_what_is_in_a_tar_are_the_very_files(export, rows):
    folder, _ = export("webdataset", rows)
    with tarfile.open(folder / "000000.tar") as tar:
        packed = {tar.extractfile(member).read() for member in tar if not member.name.endswith("json")}
    assert packed == {Path(row.uri).read_bytes() for row in rows}


def test_pycocotools_reads_boxes(export, rows, tmp_path):
    rows.append(
        with_digest(draw_row(tmp_path / "photos", "z.jpg", task="detect", prompt="dog", caption=None, objects=()))
    )
    path, _ = export("coco", rows, "boxes/it.json")
    coco = COCO(path)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["cat", "dog"]
    names = {image["file_name"]: image for image in coco.loadImgs(coco.getImgIds())}
    assert len(names) == 4
    boxes = coco.loadAnns(coco.getAnnIds(imgIds=[names["b.png"]["id"]]))
    assert [box["bbox"] for box in boxes] == [[10, 15, 20, 15]] * 2 and boxes[0]["area"] == 300
    assert coco.getAnnIds(imgIds=[names["z.jpg"]["id"]]) == []


def test_coco_keeps_boxes_with_their_pictures_where_names_differ_from_run_to_run(export, tmp_path):
    photos = [with_digest(draw_row(tmp_path, f"{i}.jpg", (100, 10 * i + 10))) for i in range(8)]
    rows = []
    for index, row in enumerate(photos):
        for root in ("", "sub/"):
            box = Box(0.0, 0.0, 0.5, 1.0)
            values = {"task": "detect", "prompt": f"p{root}", "caption": None, "objects": (box,)}
            rows.append(row._replace(id=f"{index}{root}", filename=root + row.filename, **values))
    coco = COCO(export("coco", rows)[0])
    assert len(coco.anns) == 16
    for box in coco.anns.values():
        assert box["bbox"][3] == coco.imgs[box["image_id"]]["height"]


def test_coco_without_detections_is_an_error(export):
    with pytest.raises(ValueError, match="none of these rows is a detection"):
        export("coco", [annotation()])


def test_duckdb_and_polars_read_json_lines(export, rows):
    path, _ = export("jsonl", rows)
    frame = polars.read_ndjson(path)
    assert frame["caption_normal"].to_list() == [f"A picture named {name}." for name in ("a.jpg", "b.png", "sub/c.jpg")]
    with duckdb.connect() as database:
        query = f"SELECT count(*), sum(len(detect_cat)), any_value(point_cat[1].y) FROM read_json('{path}')"
        assert database.execute(query).fetchall() == [(3, 6, 0.25)]


def test_hostile_texts_are_unchanged_in_json_lines(export):
    rows = [annotation(id=text[:9], key=f"k{index}", caption=text) for index, text in enumerate(HOSTILE)]
    path, _ = export("jsonl", rows)
    assert {json.loads(line)["caption_normal"] for line in path.read_text().split("\n")[:-1]} == set(HOSTILE)


def test_a_sidecar_lies_beside_its_picture_with_one_caption_on_each_line(export, rows, tmp_path):
    rows.append(row_of(tmp_path / "photos/a.jpg", "a.jpg", prompt="short", caption=" two\n lines "))
    folder, left = export("sidecar", rows, "photos")
    assert not left
    assert (folder / "a.txt").read_text() == "A picture named a.jpg.\ntwo lines\n"
    assert (folder / "sub/c.txt").read_text() == "A picture named sub/c.jpg.\n"
    assert (folder / "a.jpg").exists()


def test_without_captions_a_sidecar_holds_answers_to_queries(export, rows):
    folder, _ = export("sidecar", rows, where="task = 'query'")
    assert (folder / "b.txt").read_text() == "yes\n"


def test_two_pictures_of_one_stem_keep_their_own_texts(export, tmp_path):
    rows = [row_of(tmp_path / name, name, caption=f"It is {name}.") for name in ("a.jpg", "A.png", "b.jpg")]
    rows.append(row_of(tmp_path / "other" / "b.jpg", "b.jpg", caption="Another b."))
    folder, left = export("sidecar", rows)
    texts = {path.read_text() for path in folder.iterdir()}
    assert texts == {"It is a.jpg.\n", "It is A.png.\n", "It is b.jpg.\n", "Another b.\n"}
    assert left == {sidecar.SHARES_NAME: 4} and not (folder / "a.txt").exists()


def test_a_sidecar_has_the_name_of_its_picture_even_if_it_is_not_utf8(export, tmp_path):
    names = ("back\\slash.jpg", os.fsdecode(b"caf\xe9.png"))
    folder, left = export("sidecar", [draw_row(tmp_path / "photos", name) for name in names], "photos")
    assert not left
    assert {path.stem for path in folder.glob("*.txt")} == {Path(name).stem for name in names}


def test_an_existing_text_file_is_not_overwritten(export, rows, tmp_path):
    (tmp_path / "photos/a.txt").write_text("mine")
    folder, left = export("sidecar", rows, "photos")
    assert (folder / "a.txt").read_text() == "mine" and left == {sidecar.ANOTHER_TEXT: 1}
    (folder / "a.txt").unlink()
    assert export("sidecar", rows, "photos")[1] == {sidecar.SAME_TEXT: 2}


@pytest.mark.parametrize("format_name", ["imagefolder", "webdataset"])
def test_a_missing_or_changed_picture_is_left_out_and_counted(format_name, export, rows, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a.jpg")
    (tmp_path / "photos/b.png").unlink()
    folder, left = export(format_name, rows)
    assert left == {"has changed since it was annotated": 1, "can't be fetched": 1}
    assert sum(path.is_file() for path in folder.rglob("*")) == {"imagefolder": 2, "webdataset": 1}[format_name]


@pytest.fixture
def in_tars(rows, tmp_path):
    """The same pictures in two archives, whose members lie against the order of their names."""
    with ExitStack() as stack:
        tars = {n: stack.enter_context(tarfile.open(tmp_path / f"{n}.tar", "w")) for n in "xy"}
        names = sorted({row.filename for row in rows}, reverse=True)
        where = {name: "xy"[index % 2] for index, name in enumerate(names)}
        for name in names:
            tars[where[name]].add(tmp_path / "photos" / name, name)
    paths = [f"{tmp_path}/{n}.tar" for n in tars]
    refs = {ref.filename: ref for path in paths for ref in list_archive(ImageRef(path, path))}
    found = [(row, refs[row.filename]) for row in rows]
    return [row._replace(uri=ref.uri, byte_offset=ref.byte_range[0], byte_size=ref.byte_range[1]) for row, ref in found]


@pytest.mark.parametrize("format_name", ["imagefolder", "webdataset"])
def test_pictures_in_archives_are_exported_in_the_order_of_the_archive(
    format_name, export, in_tars, tmp_path, monkeypatch
):
    folder, left = export(format_name, in_tars)
    assert left == {"imagefolder": {}, "webdataset": {formats.OTHER_FORMAT: 1}}[format_name]
    if format_name == "imagefolder":
        found = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        contents = [(folder / row["file_name"]).read_bytes() for row in found]
    else:
        with tarfile.open(folder / "000000.tar") as tar:
            files = [tar.extractfile(member).read() for member in tar]
        contents, found = files[::2], [json.loads(text) for text in files[1::2]]
    assert [row["filename"] for row in found] == ["sub/c.jpg", "a.jpg", "b.png"]
    assert contents == [(tmp_path / "photos" / row["filename"]).read_bytes() for row in found]
    assert all("byte_offset" not in row for row in found)


def test_a_missing_or_replaced_member_is_left_out_and_counted(export, in_tars, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "photos/b.png", "a.jpg")
    (tmp_path / "y.tar").unlink()
    assert export("webdataset", in_tars)[1] == {"has changed since it was annotated": 2, "can't be fetched": 1}


def test_a_picture_from_a_data_uri_is_left_out_and_counted(export, rows):
    gone = [row._replace(uri="data:image/png;base64,sha256:00") for row in rows]
    assert export("imagefolder", gone)[1] == {UNKEPT: 3}


def test_a_member_whose_row_has_no_byte_range_is_left_out_and_told(export, in_tars):
    older = [row._replace(byte_offset=None, byte_size=None) for row in in_tars]
    assert export("imagefolder", older)[1] == {UNKEPT: 3}


@pytest.mark.parametrize("format_name", ["imagefolder", "webdataset", "coco", "jsonl"])
def test_existing_files_are_not_overwritten(format_name, export, rows, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine").write_text("mine")
    with pytest.raises(ValueError, match="already exists"):
        export(format_name, rows)
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine"]


@pytest.mark.parametrize("format_name", ["imagefolder", "webdataset"])
def test_a_failure_leaves_nothing_half_done(format_name, export, rows, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        export(format_name, rows)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}
