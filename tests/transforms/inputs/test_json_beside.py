"""The JSON beside pictures: in folders and archives, its types, and what is missing or broken."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from support.running.beam_runs import collect

from moondream_beam.models.tasks import Query
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.inputs.images import ReadImages
from moondream_beam.transforms.inputs.json_beside import check_json_columns, with_columns
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.io.object_stores.base import Stores

Files = Mapping[str, bytes]


def sample(number: int, **fields: object) -> dict[str, bytes]:
    """Return the files of a sample of webdataset: a picture, and its JSON."""
    return {f"{number}.jpg": b"picture", f"{number}.json": json.dumps(fields).encode()}


def archive(path: Path, files: Files, order: Sequence[str] = (), mode: str = "w") -> str:
    """Write a tar archive of files, in this order or in their own."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name in order or files:
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            tar.addfile(info, io.BytesIO(files[name]))
    return str(path)


def folder(path: Path, files: Files) -> str:
    """Write files into a new folder."""
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return str(path)


def kept(inputs: Sequence[str], *keep: str, **published: pa.DataType) -> Columns:
    """Return the columns to keep of the JSON beside all pictures of the inputs."""
    return check_json_columns(inputs, Columns("url", tasks=(Query("?"),)), keep, published)


def values(source: str, columns: Columns) -> dict[str, object]:
    """Return the kept values of each picture by name; or the problem of a picture, without the name of its file."""
    refs = with_columns(ImageRef(source, source), columns, Stores())
    return {ref.filename: ref.problem or dict(zip(names(columns), ref.columns[0], strict=True)) for ref in refs}


def names(columns: Columns) -> list[str]:
    """Return the names of the kept columns."""
    return [field.name for field in columns.kept]


FILES = sample(1, word="a", score=1, box=[1, 2]) | sample(2, word="b", score=0.5, box=None)
EXPECTED = {
    "1.jpg": {"word": "a", "score": 1.0, "box": "[1, 2]"},
    "2.jpg": {"word": "b", "score": 0.5, "box": None},
}


@pytest.mark.parametrize("order", [(), ("1.json", "1.jpg", "2.json", "2.jpg"), ("1.jpg", "2.jpg", "2.json", "1.json")])
@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_members_of_an_archive_have_the_fields_of_their_json(
    tmp_path: Path, order: Sequence[str], name: str, mode: str
) -> None:
    path = archive(tmp_path / name, FILES, order, mode)
    columns = kept([path], "word", "score", "box")
    assert [field.type for field in columns.kept] == [pa.string(), pa.float64(), pa.string()]
    assert values(path, columns) == EXPECTED


def test_files_have_the_fields_of_the_json_beside_them_and_it_is_not_counted_as_left_out(tmp_path: Path) -> None:
    source = folder(tmp_path / "set", FILES | {"notes.txt": b""})
    columns = kept([source], "word", "score=grade", "box")
    refs = collect(lambda pipeline: pipeline | ReadImages(source, columns=columns))
    found = {ref.filename: dict(zip(names(columns), ref.columns[0], strict=True)) for ref in refs if not ref.skipped}
    assert found == {
        name: {"word": row["word"], "grade": row["score"], "box": row["box"]} for name, row in EXPECTED.items()
    }
    assert [ref.skipped.kind for ref in refs if ref.skipped] == ["files ending in .txt"]
    assert {ref.skipped.kind for ref in collect(lambda pipeline: pipeline | ReadImages(source)) if ref.skipped} == {
        "files ending in .txt",
        "files ending in .json",
    }


def test_types_are_those_of_all_inputs_and_of_the_output(tmp_path: Path) -> None:
    first = archive(tmp_path / "a.tar", sample(1, size=1, word="x"))
    second = folder(tmp_path / "b", sample(2, size=1.5))
    columns = kept([first, second], "size", "word", word=pa.string())
    assert [field.type for field in columns.kept] == [pa.float64(), pa.string()]
    assert any("size" in note and "double" in note for note in columns.notes)
    assert any("word" in note and "1 of 2" in note for note in columns.notes)
    with pytest.raises(ValueError, match="column colour: .* they have size, word"):
        kept([first, second], "colour")


def test_a_picture_without_json_has_nulls_and_is_counted(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", sample(1, word="a") | {"2.jpg": b"", "3.jpg": b""})
    columns = kept([path], "word")
    assert values(path, columns) == {"1.jpg": {"word": "a"}, "2.jpg": {"word": None}, "3.jpg": {"word": None}}
    assert any("2 pictures without" in note for note in columns.notes)


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"word": 1, "word": 2}', b"\xff"])
def test_broken_json_fails_its_picture_only(tmp_path: Path, content: bytes) -> None:
    path = archive(tmp_path / "a.tar", sample(1, word="a") | {"2.jpg": b"", "2.json": content})
    found = values(path, kept([path], "word"))
    assert found["1.jpg"] == {"word": "a"}
    assert str(found["2.jpg"]).startswith("2.json: ")


def test_samples_of_webdataset_share_one_json_and_second_members_have_their_own(tmp_path: Path) -> None:
    left = {"x/1.left.jpg": b"", "x/1.right.png": b"", "x/1.json": b'{"word": "a"}', "v.1.jpg": b"", "v.1.json": b"{}"}
    path = archive(tmp_path / "a.tar", left)
    columns = kept([path], "word")
    assert values(path, columns) == {
        "x/1.left.jpg": {"word": "a"},
        "x/1.right.png": {"word": "a"},
        "v.1.jpg": {"word": None},
    }
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for word in "ab":
            for name, content in sample(1, word=word).items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert values(f"{tmp_path}/b.tar", columns) == {"1.jpg": {"word": "a"}, "1.jpg#2": {"word": "b"}}


def test_a_prompt_names_fields_and_a_missing_one_fails_its_request_only(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", sample(1, word="cat") | sample(2))
    tasks = (Query("Is it a {word}?"), Query("What is it?"))
    columns = check_json_columns([path], Columns("url", tasks=tasks), [], {})
    first, second = with_columns(ImageRef(path, path), columns, Stores())
    assert [task.prompt for task in first.tasks] == ["Is it a cat?", "What is it?"]
    assert not any(first.problems)
    assert [problem is not None for problem in second.problems] == [True, False]


def test_a_missing_field_is_skipped_on_demand(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", sample(1, word="cat") | sample(2) | {"3.jpg": b""})
    columns = check_json_columns([path], Columns("url", tasks=(Query("{word}?"),), skip_empty_prompts=True), [], {})
    refs = list(with_columns(ImageRef(path, path), columns, Stores()))
    assert [ref.tasks[0].prompt for ref in refs if not ref.skipped] == ["cat?"]
    assert [ref.filename for ref in refs if ref.skipped] == ["2.jpg", "3.jpg"]
