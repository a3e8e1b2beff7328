"""``moondream-beam export``."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from PIL import Image
from support.data.small_outputs import draw_row, publish, some_of_each, with_digest

from moondream_beam.pipelines.commands import export
from moondream_beam.pipelines.options import commands
from moondream_beam.transforms.dataset.export import formats

UNANSWERED = "; without an answer: 2 requests of the output, errors/ has the reasons"


@pytest.fixture
def out(tmp_path):
    return publish(tmp_path / "out", *some_of_each(tmp_path / "photos"))


def test_it_prints_counts_format_and_destination(out, tmp_path, command):
    status, stdout, stderr = command("export", out, "--to", "jsonl", tmp_path / "rows.jsonl", "--drop-suspicious")
    assert (status, stderr) == (0, "")
    assert stdout == f"3 pictures, 12 answers as jsonl in {tmp_path}/rows.jsonl{UNANSWERED}\n"
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "shape, where, line",
    [
        (
            "sidecar",
            "true",
            "3 texts written (captions) as sidecar in {new}; boxes, points and answers have no place in it "
            "(9 of 13 chosen answers)",
        ),
        (
            "sidecar",
            "task IN ('query', 'point')",
            "3 texts written (answers) as sidecar in {new}; points have no place in it (3 of 6 chosen answers)",
        ),
        ("sidecar", "task = 'query'", "3 texts written (answers) as sidecar in {new}"),
        (
            "coco",
            "task != 'point'",
            "3 answers written (boxes) as coco in {new}.json; captions and answers have no place in it "
            "(7 of 10 chosen answers)",
        ),
        ("coco", "task = 'detect'", "3 answers written (boxes) as coco in {new}.json"),
    ],
)
def test_a_format_for_one_kind_of_task_names_what_has_no_place_in_it(shape, where, line, out, tmp_path, command):
    stdout = command("export", out, "--to", shape, tmp_path / "new", "--where", where)[1]
    assert stdout == line.format(new=tmp_path / "new") + f"{UNANSWERED}\n"


def test_a_text_that_is_kept_is_not_counted_as_written(out, tmp_path, command):
    (tmp_path / "photos" / "a.txt").write_text("mine\n")
    _, stdout, _ = command("export", out, "--to", "sidecar", tmp_path / "photos", "--drop-suspicious")
    assert stdout.startswith("2 texts written (captions)")


def test_a_second_export_writes_no_text_and_says_so(out, tmp_path, command):
    words = ("export", out, "--to", "sidecar", tmp_path / "texts", "--drop-suspicious")
    assert command(*words)[1].startswith("3 texts written (captions)")
    for more in ((), ("--existing", "add"), ("--existing", "replace")):
        status, stdout, stderr = command(*words, *more)
        assert (status, stdout[:24]) == (0, "0 texts written (caption")
        assert stderr == "note on 3 of the pictures: each has its text file already, with the same text\n"


def test_an_output_without_failures_has_no_line_about_them(tmp_path, command):
    out = publish(tmp_path / "whole", draw_row(tmp_path / "photos", "a.jpg"))
    assert command("export", out, "--to", "jsonl", tmp_path / "rows")[1].count(";") == 0


@pytest.mark.parametrize(
    ("shape", "given", "written"),
    [
        ("jsonl", "rows", "rows.jsonl"),
        ("jsonl", "rows.v1", "rows.v1.jsonl"),
        ("jsonl", "rows.JSONL", "rows.JSONL"),
        ("jsonl", "rows.ndjson", "rows.ndjson"),
        ("coco", "boxes", "boxes.json"),
        ("coco", "boxes.json", "boxes.json"),
    ],
)
def test_a_format_that_is_one_file_gets_its_extension(shape, given, written, out, tmp_path, command):
    _, stdout, _ = command("export", out, "--to", shape, tmp_path / "new" / given)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [written]
    assert f" in {tmp_path}/new/{written}" in stdout


def test_a_picture_that_is_left_out_is_reported_with_status_1(out, tmp_path, command):
    status, _, stderr = command("export", out, "--to", "sidecar", tmp_path / "texts")
    unread, problem = stderr.splitlines()
    assert status == 1 and problem == "1 of the pictures have a problem; each has no text"
    assert unread.startswith("note on 1 of the pictures: each could not be read")


def test_a_text_file_with_another_name_than_its_picture_is_reported_with_status_1(tmp_path, command):
    out = publish(tmp_path / "out", draw_row(tmp_path / "photos", "new\nline.jpg"))
    status, _, stderr = command("export", out, "--to", "sidecar", tmp_path / "photos")
    assert status == 1 and "has a name that its text can't have" in stderr
    assert (tmp_path / "photos" / "new_line.txt").exists()


def test_what_needs_no_action_is_a_note_with_status_0(tmp_path, command):
    rows = [
        with_digest(row) for row in some_of_each(tmp_path / "photos") if hasattr(row, "sha256") and row.task == "query"
    ]
    status, _, stderr = command("export", publish(tmp_path / "mixed", *rows), "--to", "webdataset", tmp_path / "set")
    assert status == 0 and len(stderr.splitlines()) == 1
    assert stderr.startswith("note on 1 of the pictures: each has the extension")


def test_texts_are_exported_for_a_trainer_as_the_options_say(out, tmp_path, command):
    (tmp_path / "photos" / "a.caption").write_text("mine\n")
    words = ("--text-extension", ".caption", "--text-order", "normal", "--existing", "add", "--drop-suspicious")
    status, _, stderr = command("export", out, "--to", "sidecar", tmp_path / "photos", *words)
    assert (status, stderr) == (0, "note on 1 of the pictures: each has new lines at the end of its text file\n")
    assert (tmp_path / "photos" / "a.caption").read_text() == "mine\nA picture named a.jpg.\n"
    assert (tmp_path / "photos" / "sub" / "c.caption").read_text() == "A picture named sub/c.jpg.\n"


def test_a_text_file_that_exists_is_reported_with_the_options(out, tmp_path, command):
    (tmp_path / "photos" / "a.txt").write_text("mine\n")
    status, _, stderr = command("export", out, "--to", "sidecar", tmp_path / "photos", "--drop-suspicious")
    assert status == 1 and "--existing add or --existing replace" in stderr and len(stderr.splitlines()) == 1


def test_pictures_are_copied_beside_their_texts(out, tmp_path, command):
    status, stdout, stderr = command("export", out, "--to", "sidecar", tmp_path / "new", "--copy", "--format", "png")
    assert status == 1 and stdout.startswith("3 texts written (captions)") and "each has no text" in stderr
    assert "are not in it" not in stdout
    texts = {path.stem for path in (tmp_path / "new").rglob("*.txt")}
    assert texts and texts == {path.stem for path in (tmp_path / "new").rglob("*.png")}


def test_a_condition_chooses_rows(out, tmp_path, command):
    where = "task = 'detect' AND filename LIKE '%.png'"
    status, _, _ = command("export", out, "--to", "coco", tmp_path / "coco.json", "--where", where)
    assert status == 0 and len(json.loads((tmp_path / "coco.json").read_text())["annotations"]) == 2


def test_unreadable_rows_are_one_line_of_error(out, tmp_path, command):
    (out / "data" / "part-two-0.parquet").write_bytes(b"no Parquet")
    status, stdout, stderr = command("export", out, "--to", "jsonl", tmp_path / "new")
    assert (status, stdout) == (2, "") and len(stderr.splitlines()) == 1
    assert f"{out} can't be read" in stderr and "part-two-0.parquet" in stderr


@pytest.mark.parametrize(
    "words, cure",
    [
        (("OUT", "--to", "jsonl", "https://host/rows"), "give a folder, or a URL that begins with s3://"),
        (("OUT", "--to", "jsonl", "OUT"), "already exists"),
        (("OUT", "--to", "jsonl", "new", "--where", "widht > 1"), "widht"),
        (("OUT", "--to", "jsonl", "new", "--where", "true AND\nwidht > 1"), "widht"),
        (("OUT", "--to", "jsonl", "new", "--frobnicate"), "unknown option --frobnicate"),
        (("OUT", "--to", "yaml", "new"), "invalid choice"),
        (("OUT", "--to", "jsonl", "new", "--text-extension", ".caption"), "is for --to sidecar, kohya only"),
        (("OUT", "--to", "coco", "new", "--existing", "add"), "is for --to sidecar, kohya only"),
        (("OUT", "--to", "sidecar", "new", "--text-extension", ".jpg"), "give another, such as .caption"),
        (("OUT", "--to", "sidecar", "new", "--text-order", "shrot"), "the prompts are 'normal'"),
        (("OUT", "--to", "jsonl", "new", "--template", "{caption}"), "is for --to sidecar, kohya only"),
        (
            ("OUT", "--to", "sidecar", "new", "--template", "{caption}", "--text-lines", "first"),
            "leave one of them out",
        ),
        (("OUT", "--to", "sidecar", "new", "--template", "caption"), "'{caption}, {tags}'"),
        (("OUT", "--to", "sidecar", "new", "--split", "train=1"), "--split is for --to imagefolder, webdataset"),
        (("OUT", "--to", "imagefolder", "new", "--link"), "--link or --no-images is for --to llava"),
        (("OUT", "--to", "jsonl", "new", "--resize", "8"), "--resize is for --to imagefolder, webdataset, llava"),
        (("OUT", "--to", "llava", "new", "--resize", "0"), "--resize 0"),
        (("OUT", "--to", "sidecar", "new", "--resize", "8"), "or give --copy"),
        (("OUT", "--to", "sidecar", "new", "--copy", "--resize", "0"), "--resize 0"),
        (("OUT", "--to", "kohya", "new", "--link"), "for --to kohya give --copy"),
        (("OUT", "--to", "llava", "new", "--link", "--format", "jpg"), "or give --copy"),
        (("OUT", "--to", "llava", "s3://bucket/new", "--link"), "give --copy or --no-images"),
        (("OUT", "--to", "llava", "new", "--split", "train=0.5"), "train=0.95,val=0.05"),
        (("OUT", "--to", "yolo", "new", "--no-images"), "give --copy or --link"),
        (("OUT", "--to", "llava", "new", "--where", "task = 'point'"), "choose another format or --where"),
        (("nowhere", "--to", "jsonl", "new"), "give the folder that annotate wrote"),
    ],
)
def test_a_bad_argument_is_one_line_of_error(words, cure, out, command, monkeypatch):
    monkeypatch.chdir(out.parent)
    status, stdout, stderr = command("export", *(out if word == "OUT" else word for word in words))
    assert status == 2 and stdout == "" and cure in stderr and len(stderr.splitlines()) == 1
    assert not (out.parent / "new").exists()


def test_the_parser_offers_the_formats_that_there_are():
    assert set(commands.EXPORT_FORMATS) == set(formats.FORMATS)
    assert ", ".join(formats.LAYOUTS) == commands.LAYOUT_FORMATS
    assert tuple(export.PICTURE_FORMATS) == commands.PICTURE_FORMATS


def test_conversations_of_a_split_are_exported_with_smaller_pictures_of_one_format(out, tmp_path, command):
    words = ("--split", "train=0.5,val=0.5", "--resize", "20", "--format", "webp", "--drop-suspicious")
    status, stdout, stderr = command("export", out, "--to", "llava", tmp_path / "set", *words)
    told = "6 answers written (captions and answers) as llava in {}/set; boxes and points have no place in it (6 of 12"
    assert status == 0 and stdout.startswith(told.format(tmp_path))
    samples = [one for name in ("train", "val") for one in json.loads((tmp_path / "set" / f"{name}.json").read_text())]
    for sample in samples:
        content = (tmp_path / "set" / sample["image"]).read_bytes()
        assert sample["image"].endswith(".webp") and Image.open(io.BytesIO(content)).size == (20, 15)
    # All pictures of the output have the same bytes, but one is a PNG.
    assert len(samples) == 3 and "note on 3 of the pictures: each is written smaller" in stderr


def test_without_pictures_none_is_read(out, tmp_path, command):
    shutil.rmtree(tmp_path / "photos")
    words = ("--no-images", "--no-picture-check", "--drop-suspicious")
    status, _, stderr = command("export", out, "--to", "messages", tmp_path / "set", *words)
    assert (status, stderr) == (0, "") and not (tmp_path / "set" / "images").exists()
