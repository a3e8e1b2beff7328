"""Exports go to new files and folders only, complete or not at all, on a disk and in buckets."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from apache_beam.io.filesystems import FileSystems
from support.data.small_outputs import publish, some_of_each

from moondream_beam.transforms.dataset.export import formats, targets
from moondream_beam.transforms.dataset.export.layouts import sidecar
from moondream_beam.transforms.dataset.export.pictures import tars
from moondream_beam.transforms.dataset.export.targets import (
    UNFINISHED,
    new_file,
    new_folder,
    resolve_destination,
    write_text,
)
from moondream_beam.transforms.dataset.export.wide import Selection
from moondream_beam.transforms.dataset.reader import Dataset
from moondream_beam.transforms.images.fetch import Fetcher


@pytest.fixture
def out(tmp_path):
    """An output about three pictures that are there and one that is gone."""
    rows = []
    for row in some_of_each(tmp_path / "photos"):
        path = Path(getattr(row, "uri", ""))
        rows.append(row._replace(sha256=hashlib.sha256(path.read_bytes()).hexdigest()) if path.is_file() else row)
    return publish(tmp_path / "out", *rows)


def export(format_name, out, destination):
    with Dataset(str(out)) as dataset:
        return formats.FORMATS[format_name](
            Selection(dataset, "caption != '' OR caption IS NULL"), destination, Fetcher()
        )


def files(root):
    """What lies there, by name."""
    found = {}
    for metadata in FileSystems.match([f"{root}/**"])[0].metadata_list:
        with FileSystems.open(metadata.path, compression_type="uncompressed") as file:
            found[metadata.path.removeprefix(f"{root}/")] = file.read()
    return found


def test_a_destination_is_a_path_or_a_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        resolve_destination("there") == str(tmp_path / "there")
        and resolve_destination("s3://bucket/there/") == "s3://bucket/there"
    )
    for wrong in ("https://host/there", "az://bucket/there"):
        with pytest.raises(ValueError):
            resolve_destination(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_each_format_is_the_same_in_a_bucket_and_on_a_disk(kind, bucket_of, out, tmp_path):
    root = f"{bucket_of(kind).root}/sets"
    for format_name, name in (("jsonl", "a.jsonl"), ("coco", "a.json"), ("imagefolder", "i"), ("sidecar", "s")):
        assert export(format_name, out, f"{root}/{name}") == export(format_name, out, str(tmp_path / "sets" / name))
    here = {path.relative_to(tmp_path / "sets").as_posix(): path for path in (tmp_path / "sets").rglob("*")}
    assert files(root) == {name: path.read_bytes() for name, path in here.items() if path.is_file()}


@pytest.mark.slow
def test_a_webdataset_in_a_bucket_has_its_tars_and_nothing_else(bucket_of, out, monkeypatch):
    monkeypatch.setattr(tars, "MAX_TAR_PICTURES", 2)
    root = f"{bucket_of('s3').root}/set"
    assert export("webdataset", out, root) == {formats.OTHER_FORMAT: 1}
    written = files(root)
    assert sorted(written) == ["000000.tar", "000001.tar"]
    names = set()
    for content in written.values():
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            names |= {json.load(tar.extractfile(member))["filename"] for member in tar if member.name.endswith("json")}
    assert names == {"a.jpg", "b.png", "sub/c.jpg"}


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["imagefolder", "webdataset", "coco", "jsonl"])
def test_existing_files_in_a_bucket_are_not_overwritten(format_name, bucket_of, out):
    bucket = bucket_of("s3")
    bucket.put("set/mine", b"mine")
    for taken in (f"{bucket.root}/set", f"{bucket.root}/set/mine"):
        with pytest.raises(ValueError, match="already exists"):
            export(format_name, out, taken)
    assert files(bucket.root) == {"set/mine": b"mine"}


@pytest.mark.slow
def test_an_existing_text_file_in_a_bucket_is_kept(bucket_of, out):
    bucket = bucket_of("s3")
    bucket.put("set/a.txt", b"mine")
    assert export("sidecar", out, f"{bucket.root}/set") == {sidecar.ANOTHER_TEXT: 1}
    assert files(f"{bucket.root}/set")["a.txt"] == b"mine"
    assert write_text(f"{bucket.root}/set", "a.txt", "other") == "kept"
    assert write_text(f"{bucket.root}/set", "a.txt", "mine") == "same"


@pytest.mark.slow
def test_a_failure_leaves_nothing_in_a_bucket(bucket_of):
    root = bucket_of("s3").root
    with pytest.raises(KeyError), new_folder(f"{root}/set") as folder:
        with folder.create("deep/a.txt") as file:
            file.write(b"a")
        assert UNFINISHED in files(f"{root}/set"), "the folder is marked during the export"
        raise KeyError
    with pytest.raises(KeyError), new_file(f"{root}/a.json") as file:
        file.write("half")
        raise KeyError
    assert files(root) == {}


@pytest.mark.slow
def test_the_folder_of_a_killed_export_in_a_bucket_is_an_error(bucket_of):
    root = bucket_of("s3").root
    folder = targets._bucket_folder(f"{root}/set")
    folder.__enter__().create("a.txt").close()
    with pytest.raises(ValueError, match="stopped halfway: delete .*/set/_UNFINISHED"), new_folder(f"{root}/set"):
        pass
    assert set(files(f"{root}/set")) == {UNFINISHED, "a.txt"}


@pytest.mark.slow
def test_a_missing_bucket_is_an_os_error(bucket_of):
    bucket_of("s3")
    with pytest.raises(OSError), new_file("s3://no-such-bucket-here/a.json"):
        pass
