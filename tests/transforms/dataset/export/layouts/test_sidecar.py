"""Texts from a template, one text of many, and the metadata of kohya's scripts.

kohya's scripts are not installed. The metadata is checked against the fields that they read: ``caption`` and ``tags``,
by the path of a picture that exists.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from support.data.small_outputs import draw_row

from moondream_beam.transforms.dataset.export.layouts.sidecar import METADATA, MORE_LINES, NO_FILE, NO_VALUE
from moondream_beam.transforms.dataset.export.texts import TextOptions

TAGS = [pa.field("tags", pa.list_(pa.string())), pa.field("artist", pa.string())]


@pytest.fixture
def tagged(tmp_path):
    """Two pictures with captions. The first has tags, and the second has none."""
    kept = ((["red", "small  \ncup"], "Ann"), (None, "Bob"))
    rows = []
    for number, columns in enumerate(kept):
        for prompt in ("normal", "short"):
            row = draw_row(tmp_path / "photos", f"{number}.jpg", prompt=prompt, caption=f"{prompt} {number}.")
            rows.append(row._replace(columns=columns))
    return rows


def texts_of(folder):
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def test_a_template_is_filled_with_the_caption_and_the_columns_of_a_manifest(export, tagged):
    options = TextOptions(template="{caption}, {tags} {{by {artist}}}", order=("short",))
    folder, left = export("sidecar", tagged, kept=TAGS, texts=options)
    assert texts_of(folder) == {"0.txt": "short 0., red, small cup {by Ann}\n"} and left == {NO_VALUE: 1}


def test_a_template_takes_the_column_of_a_prompt(export, tagged):
    folder, left = export("sidecar", tagged, kept=TAGS, texts=TextOptions(template="{artist}: {caption_short}"))
    assert texts_of(folder) == {"0.txt": "Ann: short 0.\n", "1.txt": "Bob: short 1.\n"} and not left


@pytest.mark.parametrize(
    ("template", "cure"),
    [
        ("{colour}", "caption, tags, artist, caption_normal, caption_short"),
        ("{caption!r}", "'{caption}, {tags}'"),
        ("{caption:>9}", "'{caption}, {tags}'"),
        ("{caption", "'{caption}, {tags}'"),
        ("{}", "'{caption}, {tags}'"),
        ("no field", "'{caption}, {tags}'"),
    ],
)
def test_a_bad_template_is_refused_with_the_cure(template, cure, export, tagged, tmp_path):
    with pytest.raises(ValueError, match="--template") as error:
        export("sidecar", tagged, kept=TAGS, texts=TextOptions(template=template))
    assert cure in str(error.value) and not (tmp_path / "there").exists()


def test_the_first_text_alone_is_written_and_the_others_are_told(export, tagged):
    folder, left = export("sidecar", tagged, kept=TAGS, texts=TextOptions(only_first=True, order=("short",)))
    assert texts_of(folder) == {"0.txt": "short 0.\n", "1.txt": "short 1.\n"} and left == {MORE_LINES: 2}


def test_the_metadata_of_kohya_has_the_lines_of_the_text_files_and_the_tags(export, tagged):
    folder, left = export("kohya", tagged, kept=TAGS, texts=TextOptions(extension=".caption"))
    metadata = json.loads((folder / METADATA).read_text())
    assert not left and all(Path(path).is_file() for path in metadata)
    assert metadata == {
        tagged[0].uri: {"caption": "normal 0.\nshort 0.", "tags": "red, small cup"},
        tagged[2].uri: {"caption": "normal 1.\nshort 1."},
    }
    for number in range(2):
        lines = (folder / f"{number}.caption").read_text()
        assert lines == metadata[tagged[2 * number].uri]["caption"] + "\n"


def test_the_metadata_of_kohya_names_files_on_this_disk_only(export, tagged):
    remote = [row._replace(uri="s3://bucket/0.jpg") for row in tagged[:2]]
    folder, left = export("kohya", [*remote, *tagged[2:]], kept=TAGS)
    assert left == {NO_FILE: 1} and list(json.loads((folder / METADATA).read_text())) == [tagged[2].uri]
    assert set(texts_of(folder)) == {"0.txt", "1.txt"}


def test_metadata_that_exists_is_kept_and_no_text_is_written(export, tagged, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / METADATA).write_text("mine")
    with pytest.raises(ValueError, match="already exists"):
        export("kohya", tagged, kept=TAGS)
    assert (tmp_path / "there" / METADATA).read_text() == "mine" and not texts_of(tmp_path / "there")
