"""The user chooses order, extension and fate of the text files beside pictures."""

from __future__ import annotations

from codecs import BOM_UTF8

import duckdb
import pandas
import polars
import pytest
from support.data.outputs import publish
from support.data.small_outputs import row_of

from moondream_beam.transforms.dataset.export import formats
from moondream_beam.transforms.dataset.export.layouts import sidecar
from moondream_beam.transforms.dataset.export.targets import write_text
from moondream_beam.transforms.dataset.export.texts import TextOptions, checked_extension
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher


@pytest.fixture
def sidecars(tmp_path):
    """Return a function that exports three captions of one picture, and returns the folder and the problems."""
    prompts = ("long", "normal", "short")
    publish(tmp_path / "out", [row_of(tmp_path / "a.jpg", "a.jpg", prompt=p, caption=f"A {p} one.") for p in prompts])

    def run(**options):
        with Dataset(str(tmp_path / "out")) as dataset:
            selection = Selection(dataset)
            texts = TextOptions(**options)
            return tmp_path, formats.to_sidecar(selection, str(tmp_path), Fetcher(), texts)

    return run


@pytest.mark.parametrize(
    "order, lines",
    [
        ((), ["A long one.", "A normal one.", "A short one."]),
        (("short",), ["A short one.", "A long one.", "A normal one."]),
        (("short", "normal"), ["A short one.", "A normal one.", "A long one."]),
    ],
)
def test_texts_are_sorted_by_the_given_prompts_first(order, lines, sidecars):
    folder, left = sidecars(order=order)
    assert not left and (folder / "a.txt").read_text().splitlines() == lines


def test_a_prompt_that_no_text_answers_is_an_error_with_the_prompts(sidecars):
    with pytest.raises(ValueError, match="--text-order shrot: .*'long', 'normal', 'short'"):
        sidecars(order=("shrot",))


def test_the_files_have_the_given_extension(sidecars):
    folder, _ = sidecars(extension=".caption")
    assert {path.name for path in folder.iterdir()} == {"a.caption", "out"}


@pytest.mark.parametrize("extension", ["caption", ".", ".a/b", "../x", ".jpg", ".PNG", ".heic", ". txt", ""])
def test_an_extension_of_pictures_or_of_no_file_is_an_error(extension):
    with pytest.raises(ValueError, match="such as .caption"):
        checked_extension(extension)


@pytest.mark.parametrize(
    "existing, before, after, note",
    [
        ("keep", b"mine\n", b"mine\n", sidecar.ANOTHER_TEXT),
        ("replace", b"mine\n", b"A long one.\nA normal one.\nA short one.\n", sidecar.EXISTED["replaced"]),
        ("replace", b"\xff\xfem\0", b"A long one.\nA normal one.\nA short one.\n", sidecar.EXISTED["replaced"]),
        ("add", b"mine", b"mine\nA long one.\nA normal one.\nA short one.\n", sidecar.EXISTED["added"]),
        ("add", b"A short one.\r\n", b"A short one.\r\nA long one.\nA normal one.\n", sidecar.EXISTED["added"]),
        # UTF-16, as some editors write it: lines of UTF-8 at its end would make the file unreadable.
        ("add", b"\xff\xfem\0", b"\xff\xfem\0", sidecar.ANOTHER_TEXT),
    ],
)
def test_a_text_file_that_exists_is_kept_added_to_or_replaced(existing, before, after, note, sidecars, tmp_path):
    (tmp_path / "a.txt").write_bytes(before)
    folder, left = sidecars(existing=existing)
    assert (folder / "a.txt").read_bytes() == after and left == {note: 1}
    assert {path.name for path in folder.iterdir()} == {"a.txt", "out"}


@pytest.mark.parametrize("before", [b"", BOM_UTF8 + b"A long one.\nA normal one.\nA short one.\n"])
@pytest.mark.parametrize("existing", ["add", "replace"])
def test_a_second_export_changes_nothing(existing, before, sidecars, tmp_path):
    if existing == "add":
        (tmp_path / "a.txt").write_bytes(before)
    sidecars(existing=existing)
    content = (tmp_path / "a.txt").read_bytes()
    folder, left = sidecars(existing=existing)
    assert (
        left == {sidecar.SAME_TEXT: 1}
        and (folder / "a.txt").read_bytes() == content
        and content.count(b"A long one.") == 1
    )


def test_a_folder_with_the_name_of_a_text_is_kept(sidecars, tmp_path):
    (tmp_path / "a.txt").mkdir()
    assert sidecars(existing="replace")[1] == {sidecar.ANOTHER_TEXT: 1}


def test_a_file_whose_name_has_the_greatest_length_is_replaced(tmp_path):
    name = "x" * 251 + ".txt"
    (tmp_path / name).write_text("mine")
    assert write_text(str(tmp_path), name, "new\n", "replace") == "replaced"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new\n"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gs", "s3"])
def test_texts_in_a_bucket_are_added_to_and_replaced(kind, bucket_of):
    folder = f"{bucket_of(kind).root}/set"
    outcomes = [
        write_text(folder, "a.txt", text, existing)
        for text, existing in (("1\n", "keep"), ("2\n", "keep"), ("2\n", "add"), ("2\n", "add"), ("3\n", "replace"))
    ]
    assert outcomes == ["", "kept", "added", "same", "replaced"]
    assert write_text(folder, "a.txt", "3\n") == "same"


def test_boxes_are_one_a_row_as_docs_outputs_says(export, rows):
    """polars 2 and DuckDB drop pictures without boxes, unless told; pandas keeps them."""
    rows = [row._replace(objects=()) if row.filename == "b.png" and row.objects else row for row in rows]
    path, _ = export("jsonl", rows)
    frame = polars.read_ndjson(path)
    assert frame.explode("detect_cat")["filename"].to_list() == ["a.jpg"] * 2 + ["sub/c.jpg"] * 2
    kept = frame.explode("detect_cat", empty_as_null=True)
    assert kept["filename"].to_list() == ["a.jpg"] * 2 + ["b.png"] + ["sub/c.jpg"] * 2
    assert pandas.read_json(path, lines=True).explode("detect_cat")["filename"].to_list() == kept["filename"].to_list()
    unnested = duckdb.sql(f"SELECT filename, unnest(detect_cat) FROM read_json('{path}')").fetchall()
    assert {name for name, _ in unnested} == {"a.jpg", "sub/c.jpg"}
