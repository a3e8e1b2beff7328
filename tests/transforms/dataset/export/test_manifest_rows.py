"""Several rows of a manifest for one picture are one picture in every export, and no value is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pyarrow as pa
import pytest
from PIL import Image
from support.data.outputs import publish as publish_rows
from support.data.rows import NOW, annotation

from moondream_beam.models.tasks import Box
from moondream_beam.transforms.core.records import Annotation
from moondream_beam.transforms.dataset.export import formats
from moondream_beam.transforms.dataset.export.layouts import sidecar
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.output.writer import ShardWriter

KEPT = (pa.field("number", pa.int64()), pa.field("text", pa.string()), pa.field("split", pa.string()))
Publish = Callable[..., Selection]


@pytest.fixture
def publish(tmp_path: Path) -> Any:
    """Publishes rows that keep the columns ``KEPT``, and selects among them."""
    opened: list[Dataset] = []

    def run(*rows: Annotation, where: str = "true") -> Selection:
        writer = ShardWriter(str(tmp_path / "out"), "one", len(opened), KEPT)
        for row in rows:
            writer.add(row)
        writer.publish()
        opened.append(Dataset(str(tmp_path / "out")))
        return Selection(opened[-1], where)

    yield run
    for dataset in opened:
        dataset.database.close()


def row(folder: Path, name: str, number: int, text: str | None, **values: Any) -> Annotation:
    """A row about a picture, which is drawn if there is none."""
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "teal").save(path)
    digest = sha256(path.read_bytes()).hexdigest()
    plain = {"caption": f"It is {name}.", "key": sha256(name.encode()).hexdigest()[:20], "sha256": digest}
    plain |= {"id": f"{name}/{number}/{text}/{values}", "filename": name, "uri": str(path)}
    return annotation(**{**plain, "columns": (number, text, "train"), **values})


@pytest.fixture
def rows(tmp_path: Path) -> list[Annotation]:
    """Three rows of a manifest for one picture and one for another, each with a caption and a box."""
    found = []
    for name, number, text in (("a.jpg", 2, "x"), ("a.jpg", 1, "y"), ("a.jpg", 3, None), ("b.jpg", 1, "z")):
        box = {"task": "detect", "prompt": "cat", "caption": None, "objects": (Box(0.25, 0.5, 0.75, 1.0),)}
        found += [row(tmp_path / "photos", name, number, text, **values) for values in ({}, box)]
    return found


def test_columns_that_differ_are_lists_in_one_order_and_others_stay_values(publish: Publish, rows: list[Any]) -> None:
    selection = publish(*rows)
    assert selection.listed_columns == ["number", "text"]
    first, second = selection.wide(selection.task_columns())
    assert (first["number"], first["text"], first["split"]) == ([1, 2, 3], ["y", "x", None], "train")
    assert (second["number"], second["text"], second["split"]) == ([1], ["z"], "train")
    assert first["caption_normal"] == "It is a.jpg." and len(first["detect_cat"]) == 1
    # Rows whose values are in a list are not told as left out.
    assert (selection.pictures, selection.answers, selection.older) == (2, 4, 0)


def test_a_later_answer_replaces_that_of_all_rows_and_only_those_rows_are_left_out(
    publish: Publish, rows: list[Any], tmp_path: Path
) -> None:
    later = row(tmp_path / "photos", "a.jpg", 1, "y", caption="Later.", created_at=NOW + timedelta(days=1), id="later")
    selection = publish(*rows, later)
    first = next(iter(selection.wide(selection.task_columns())))
    assert first["caption_normal"] == "Later." and first["number"] == [1, 2, 3] and selection.older == 1


def test_equal_rows_of_a_manifest_are_not_counted_as_later_answers(publish: Publish, tmp_path: Path) -> None:
    first = row(tmp_path / "photos", "a.jpg", 1, "x")
    copies = [first._replace(id=f"copy {index}", created_at=NOW + timedelta(seconds=index)) for index in range(2)]
    selection = publish(first, *copies)
    assert (selection.matching, selection.answers, selection.repeated, selection.older) == (3, 1, 2, 0)
    other = first._replace(id="other", run="two", created_at=NOW + timedelta(days=1))
    selection = publish(other)
    assert (selection.matching, selection.answers, selection.repeated, selection.older) == (4, 1, 2, 1)


def test_a_condition_chooses_among_the_rows_of_a_picture(publish: Publish, rows: list[Any]) -> None:
    selection = publish(*rows, where="number = 1")
    assert selection.listed_columns == []
    assert [each["text"] for each in selection.wide(selection.task_columns())] == ["y", "z"]


@pytest.mark.parametrize("format_name", ["imagefolder", "webdataset", "jsonl", "coco", "sidecar"])
def test_each_picture_is_exported_once(format_name: str, publish: Publish, rows: list[Any], tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert not formats.FORMATS[format_name](publish(*rows), str(there), Fetcher())
    if format_name == "sidecar":
        texts = {path.name: path.read_text() for path in there.iterdir()}
        assert texts == {"a.txt": "It is a.jpg.\n", "b.txt": "It is b.jpg.\n"}
    elif format_name == "coco":
        found = json.loads(there.read_text())
        assert (len(found["images"]), len(found["annotations"])) == (2, 2)
    elif format_name == "jsonl":
        assert [json.loads(line)["text"] for line in there.read_text().splitlines()] == [["y", "x", None], ["z"]]
    else:
        loaded = datasets.load_dataset(str(there), cache_dir=str(tmp_path / "cache"))["train"]
        texts = [each.get("json", each)["text"] for each in loaded]
        assert sorted(map(len, texts)) == [1, 3] and len(loaded) == 2


def test_a_text_lies_beside_its_picture_if_the_picture_lies_in_the_folder(publish: Publish, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    there = [row(photos, "s1/0.jpg", 1, None), row(photos, "s2/0.jpg", 1, None), row(photos, "set.tar#x.jpg", 1, None)]
    listed = [there[0]._replace(filename="0.jpg"), there[1]._replace(filename="../photos/s2/0.jpg")]
    archived = there[2]._replace(filename="x.jpg")
    selection = publish(*listed, archived, row(tmp_path / "elsewhere", "y.jpg", 1, None))
    assert formats.FORMATS["sidecar"](selection, str(photos), Fetcher()) == {sidecar.IN_CONTAINER: 1}
    found = {path.relative_to(photos).as_posix() for path in photos.rglob("*.txt")}
    assert found == {"s1/0.txt", "s2/0.txt", "x.txt", "y.txt"}


def test_a_place_that_leads_out_of_the_folder_is_no_place_in_it(publish: Publish, tmp_path: Path) -> None:
    hostile = row(tmp_path / "photos", "a.jpg", 1, None)
    hostile = hostile._replace(uri=f"{tmp_path}/photos/../../evil.jpg", filename="../../evil.jpg")
    left = formats.FORMATS["sidecar"](publish(hostile), str(tmp_path / "photos"), Fetcher())
    assert left == {sidecar.CANT_SHARE_NAME: 1} and "export to the folder that holds" in sidecar.CANT_SHARE_NAME
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.txt")] == ["photos/_/_/evil.txt"]


@pytest.mark.parametrize("first", ["b.jpg", "a.jpg"])
def test_of_rows_with_the_same_answer_the_first_name_is_that_of_the_picture(publish: Publish, first: str) -> None:
    second = {"a.jpg": "b.jpg", "b.jpg": "a.jpg"}[first]
    plain = annotation(key="k", sha256="d" * 64)
    rows = [plain._replace(id=name, filename=name) for name in (first, second)]
    selection = publish(rows[0], rows[1]._replace(created_at=NOW + timedelta(milliseconds=1)))
    assert selection.dataset.tuples(f"SELECT filename FROM {selection.rows}") == [("a.jpg",)]


def test_the_names_of_a_later_run_count(publish: Publish) -> None:
    plain = annotation(key="k", sha256="d" * 64)
    selection = publish(
        plain._replace(id="1", filename="a.jpg"),
        plain._replace(id="2", filename="b.jpg", run="two", created_at=NOW + timedelta(hours=1)),
    )
    assert selection.dataset.tuples(f"SELECT filename FROM {selection.rows}") == [("b.jpg",)]


def test_a_row_for_each_sku_as_docs_outputs_says(publish: Publish, tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs" / "outputs.md").read_text()
    (recipe,) = re.findall(r"^```text\n(SELECT sku.*?)^```", page, re.MULTILINE | re.DOTALL)
    kept = (pa.field("sku", pa.string()),)
    rows = [
        row(tmp_path, name, 0, None, **{"columns": (sku,), **values})._replace(id=f"{sku}{values}")
        for name, sku, question in (("a.png", "s1", "Is it red?"), ("b.png", "s2", "Is it round?"))
        for values in (
            {"task": "caption", "prompt": "short", "caption": f"picture {sku}"},
            {"task": "query", "prompt": question, "caption": f"answer {sku}"},
        )
    ]
    publish_rows(tmp_path / "out", rows[:-1], kept)
    found = duckdb.sql(recipe.replace("out/data", f"{tmp_path}/out/data")).fetchall()
    assert [line[:1] + line[2:] for line in found] == [
        ("s1", "picture s1", "Is it red?", "answer s1"),
        ("s2", "picture s2", None, None),
    ]
