"""No export has an answer about another picture than the one that is at its path now."""

from __future__ import annotations

import json
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest
from PIL import Image
from support.data.rows import NOW, annotation
from support.data.small_outputs import draw_row, publish

from moondream_beam.models.tasks import Box

BOXES = (Box(0.25, 0.5, 0.75, 1.0),)


def two_tasks(photos: Path, name: str, **values: object) -> list:
    return [
        draw_row(photos, name, caption=f"About {name}.", **values),
        draw_row(photos, name, task="detect", prompt="cat", caption=None, objects=BOXES, **values),
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tmp_path / "photos"


@pytest.fixture
def out(photos: Path, tmp_path: Path) -> Path:
    """Return an output about three pictures, of which b.png was replaced since."""
    rows = [row for name in ("a.png", "b.png", "c.png") for row in two_tasks(photos, name)]
    publish(tmp_path / "out", *rows)
    Image.new("RGB", (40, 30), "navy").save(photos / "b.png")
    return tmp_path / "out"


def exported(to: str, there: Path) -> set[str]:
    """Return the names of the pictures in an export."""
    there = there.with_suffix({"coco": ".json", "jsonl": ".jsonl"}.get(to, ""))
    if to == "sidecar":
        return {path.name.replace(".txt", ".png") for path in there.iterdir()}
    if to == "imagefolder":
        return {json.loads(line)["filename"] for line in (there / "metadata.jsonl").read_text().splitlines()}
    if to == "webdataset":
        with tarfile.open(there / "000000.tar") as tar:
            return {json.load(tar.extractfile(name))["filename"] for name in tar.getnames() if name.endswith(".json")}
    if to == "coco":
        coco = json.loads(there.read_text())
        assert len(coco["annotations"]) == len(coco["images"])
        return {image["file_name"] for image in coco["images"]}
    return {json.loads(line)["filename"] for line in there.read_text().splitlines()}


FORMATS = ("sidecar", "imagefolder", "webdataset", "coco", "jsonl")


@pytest.mark.parametrize("to", FORMATS)
def test_a_changed_picture_is_left_out_of_each_format_and_counted(to, out, tmp_path, command):
    status, _, stderr = command("export", out, "--to", to, tmp_path / "there")
    assert exported(to, tmp_path / "there") == {"a.png", "c.png"}
    assert status == 1 and "changed since" in stderr
    assert "1 of the pictures" in stderr if to in ("imagefolder", "webdataset") else "2 rows about 1 picture " in stderr


@pytest.mark.parametrize("to", FORMATS)
def test_an_answer_from_before_the_picture_was_replaced_is_not_paired_with_a_later_one(
    to, out, photos, tmp_path, command
):
    """The picture was annotated, replaced, and asked another question."""
    later = {"created_at": NOW + timedelta(days=1)}
    Image.new("RGB", (64, 48), "navy").save(photos / "d.png")
    old = [row._replace(sha256="0" * 64) for row in two_tasks(photos, "d.png")]
    new = draw_row(photos, "d.png", id="new", task="detect", prompt="cat", caption=None, objects=BOXES, **later)
    other = draw_row(photos, "d.png", id="q", task="query", prompt="Which?", caption="This one.", **later)
    publish(out, *old, new, other, run="two")
    where = "filename = 'd.png' AND (task != 'detect' OR id = 'new')"
    status, _, stderr = command("export", out, "--to", to, tmp_path / "there", "--where", where)
    assert "1 row about 1 picture changed since then" in stderr and "--retry-changed" in stderr
    assert status == 1
    found = "".join(path.read_bytes().decode("latin-1") for path in (tmp_path / "there").rglob("*") if path.is_file())
    path = tmp_path / "there"
    assert "About d.png." not in (found or path.with_suffix({"coco": ".json"}.get(to, ".jsonl")).read_text())


@pytest.mark.parametrize("to", ["sidecar", "coco", "jsonl"])
def test_a_picture_that_cannot_be_read_is_exported_and_told(to, out, photos, tmp_path, command):
    (photos / "a.png").unlink()
    status, _, stderr = command("export", out, "--to", to, tmp_path / "there", "--where", "filename != 'b.png'")
    assert exported(to, tmp_path / "there") == {"a.png", "c.png"}
    assert status == 0 and stderr.startswith("note on 1 of the pictures: each could not be read")


def test_without_the_check_no_picture_is_read(out, photos, tmp_path, command):
    for path in photos.iterdir():
        path.unlink()
    assert command("export", out, "--to", "jsonl", tmp_path / "there", "--no-picture-check")[::2] == (0, "")
    assert exported("jsonl", tmp_path / "there") == {"a.png", "b.png", "c.png"}
    status, _, stderr = command("export", out, "--to", "imagefolder", tmp_path / "new", "--no-picture-check")
    assert status == 2 and "--no-picture-check" in stderr and not (tmp_path / "new").exists()


@pytest.mark.parametrize("to", ["sidecar", "coco", "jsonl"])
def test_if_all_pictures_have_changed_nothing_is_written(to, out, tmp_path, command):
    status, stdout, stderr = command("export", out, "--to", to, tmp_path / "there", "--where", "filename = 'b.png'")
    assert (status, stdout) == (2, "") and "--retry-changed" in stderr and len(stderr.splitlines()) == 1
    assert not (tmp_path / "there").exists()


def test_a_picture_put_back_is_exported_with_the_answer_about_it(out, photos, tmp_path, command):
    """The rows about both pictures are there. The latest one is about the other picture."""
    first = draw_row(photos, "e.png", size=(8, 8), id="first", caption="The first.")
    Image.new("RGB", (8, 8), "navy").save(photos / "e.png")
    second = draw_row(photos, "e.png", size=(9, 9), id="second", caption="The second.")
    publish(out, first, second._replace(created_at=NOW + timedelta(days=1)), run="two")
    draw_row(photos, "e.png", size=(8, 8))
    command("export", out, "--to", "sidecar", tmp_path / "there", "--where", "filename = 'e.png'")
    assert (tmp_path / "there" / "e.txt").read_text() == "The first.\n"


def test_changed_members_of_an_archive_are_left_out(tmp_path, photos, command):
    rows = [draw_row(photos, name, caption=f"About {name}.") for name in ("a.png", "b.png")]
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for row in rows:
            tar.add(row.uri, row.filename)
    with tarfile.open(tmp_path / "set.tar") as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar.getmembers()}
    members = [
        row._replace(
            uri=f"{tmp_path}/set.tar#{row.filename}",
            byte_offset=places[row.filename][0],
            byte_size=places[row.filename][1],
        )
        for row in rows
    ]
    publish(tmp_path / "out", members[0], members[1]._replace(sha256="0" * 64), annotation(uri="data:,x"))
    status, _, stderr = command("export", tmp_path / "out", "--to", "jsonl", tmp_path / "there")
    assert status == 1 and "1 row about 1 picture" in stderr and "could not be read" not in stderr
    assert exported("jsonl", tmp_path / "there") == {"a.png", "a.jpg"}


def test_equal_rows_of_a_manifest_are_told_as_such(tmp_path, photos, command):
    row = draw_row(photos, "a.png", id="first")
    publish(tmp_path / "out", row, row._replace(id="equal", created_at=NOW + timedelta(seconds=1)))
    status, _, stderr = command("export", tmp_path / "out", "--to", "jsonl", tmp_path / "there")
    assert status == 0 and stderr.startswith("note: 1 row ") and "manifest" in stderr and "later answer" not in stderr
