"""``moondream-beam export``."""

from __future__ import annotations

import json

import pytest
from support.data.small_outputs import draw_row, publish, some_of_each


@pytest.fixture
def out(tmp_path):
    return publish(tmp_path / "out", *some_of_each(tmp_path / "photos"))


def test_it_says_what_went_where(out, tmp_path, command):
    status, said, complained = command("export", out, "--to", "jsonl", tmp_path / "rows.jsonl", "--drop-suspicious")
    assert (status, complained) == (0, "")
    assert said == f"3 pictures, 12 answers as jsonl in {tmp_path}/rows.jsonl\n"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "shape, where, said",
    [
        ("sidecar", "true", "4 pictures, 4 of 13 chosen answers (only caption) as sidecar in"),
        ("sidecar", "task != 'caption'", "3 pictures, 3 of 9 chosen answers (only query) as sidecar in"),
        ("coco", "true", "4 pictures, 3 of 13 chosen answers (only detect) as coco in"),
        ("coco", "task = 'detect'", "3 pictures, 3 answers as coco in"),
    ],
)
def test_a_shape_that_takes_one_kind_of_task_says_how_many_answers_that_is(shape, where, said, out, tmp_path, command):
    assert command("export", out, "--to", shape, tmp_path / "new", "--where", where)[1].startswith(said)


def test_what_is_left_out_is_told_and_is_no_success(out, tmp_path, command):
    status, _, complained = command("export", out, "--to", "sidecar", tmp_path / "texts")
    assert (status, complained) == (1, "1 of the pictures: has no text\n")


def test_a_text_that_can_not_have_its_pictures_name_is_told_and_is_no_success(tmp_path, command):
    out = publish(tmp_path / "out", draw_row(tmp_path / "photos", "new\nline.jpg"))
    status, _, complained = command("export", out, "--to", "sidecar", tmp_path / "photos")
    assert status == 1 and "has a name that its text can't have" in complained
    assert (tmp_path / "photos" / "new_line.txt").exists()


def test_a_condition_chooses_rows(out, tmp_path, command):
    where = "task = 'detect' AND filename LIKE '%.png'"
    status, _, _ = command("export", out, "--to", "coco", tmp_path / "coco.json", "--where", where)
    assert status == 0 and len(json.loads((tmp_path / "coco.json").read_text())["annotations"]) == 2


def test_rows_that_can_not_be_read_are_told_in_one_line(out, tmp_path, command):
    (out / "data" / "part-two-0.parquet").write_bytes(b"no Parquet")
    status, said, complained = command("export", out, "--to", "jsonl", tmp_path / "new")
    assert (status, said) == (2, "") and len(complained.splitlines()) == 1
    assert f"{out} can't be read" in complained and "part-two-0.parquet" in complained


@pytest.mark.parametrize(
    "words, cure",
    [
        (("OUT", "--to", "jsonl", "https://host/rows"), "rows go to a folder, or to s3://"),
        (("OUT", "--to", "jsonl", "OUT"), "already exists"),
        (("OUT", "--to", "jsonl", "new", "--where", "widht > 1"), "widht"),
        (("OUT", "--to", "jsonl", "new", "--where", "true AND\nwidht > 1"), "widht"),
        (("OUT", "--to", "jsonl", "new", "--frobnicate"), "unknown option --frobnicate"),
        (("OUT", "--to", "yaml", "new"), "invalid choice"),
        (("nowhere", "--to", "jsonl", "new"), "give the folder that annotate wrote"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(words, cure, out, command, monkeypatch):
    monkeypatch.chdir(out.parent)
    status, said, complained = command("export", *(out if word == "OUT" else word for word in words))
    assert status == 2 and said == "" and cure in complained and len(complained.splitlines()) == 1
    assert not (out.parent / "new").exists()
