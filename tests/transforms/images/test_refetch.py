"""The columns of a row lead to its image again."""

from __future__ import annotations

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.images.refetch import NotKeptError, relocate
from moondream_beam.transforms.inputs.manifest import read_manifest
from moondream_beam.transforms.inputs.manifest_columns import Columns
from moondream_beam.transforms.inputs.patterns.patterns import list_archive
from moondream_beam.transforms.io.uris import escape_non_utf8

NAMES = ["a.jpg", "deep/b#c.png", "a.jpg", "caf\u00e9.webp", "more.tar#d.png"]


def archive(path, names=NAMES, mode="w"):
    with tarfile.open(path, mode) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"%d" % number))
    return str(path)


def rows_of(path):
    """The columns uri, byte_offset and byte_size of an archive's members, as they are written."""
    return [(escape_non_utf8(ref.uri), *ref.byte_range) for ref in list_archive(ImageRef(path, path))]


def fetched(*row):
    return Fetcher()(relocate(*row).location)


def test_names_that_are_no_utf8_are_found_by_the_escapes_that_rows_show(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / f"{odd}.jpg").write_bytes(b"a picture")
    path = archive(tmp_path / f"{odd}.tar", [f"{odd}.jpg", "a.jpg"])
    alone = (escape_non_utf8(str(tmp_path / f"{odd}.jpg")), None, None)
    assert [fetched(*row) for row in [alone, *rows_of(path)]] == [b"a picture", b"0", b"1"]
    (tmp_path / "caf\\udce9.jpg").write_bytes(b"named with a backslash")
    assert fetched(*alone) == b"named with a backslash"


@pytest.mark.parametrize("ending, mode", [(".tar", "w"), (".tar.gz", "w:gz"), (".txz", "w:xz")])
def test_every_member_is_found_by_the_columns_of_its_row(ending, mode, tmp_path):
    rows = rows_of(archive(tmp_path / f"set{ending}", mode=mode))
    assert len(set(rows)) == len(NAMES)
    assert [fetched(*row) for row in rows] == [b"%d" % number for number in range(len(NAMES))]


@pytest.mark.parametrize("nested", [False, True])
def test_every_row_of_a_parquet_file_is_found_by_its_uri(nested, tmp_path):
    path = str(tmp_path / "set.parquet")
    cells = [{"bytes": b"%d" % row, "path": f"{row}.jpg"} if nested else b"%d" % row for row in range(7)]
    pq.write_table(pa.table({"a picture": cells}), path, row_group_size=3)
    rows = [(ref.uri, *ref.byte_range) for ref in read_manifest(path, Columns(image="a picture"))]
    assert [fetched(*row) for row in rows] == [b"%d" % row for row in range(7)]
    for gone in ("0", "8"):
        with pytest.raises(ValueError, match="shorter"):
            fetched(f"{path}#a%20picture/{gone}", None, None)


def test_a_member_of_an_archive_that_was_repacked_is_refused(tmp_path):
    (row, *_) = rows_of(archive(tmp_path / "set.tar"))
    archive(tmp_path / "set.tar", ["other.jpg", "a.jpg"])
    with pytest.raises(ValueError, match="has changed since"):
        fetched(*row)


def test_a_member_of_an_archive_that_is_gone_can_not_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        fetched(f"{tmp_path}/no.tar#a.jpg", 512, 1)


@pytest.mark.parametrize("uri", ["data:image/png;base64,sha256:00", "/p/set.tar#a.jpg"])
def test_a_row_that_does_not_keep_the_place_of_its_image_is_refused(uri):
    with pytest.raises(NotKeptError):
        relocate(uri, None, None)


@pytest.mark.parametrize("uri", ["/p/a.jpg", "s3://b/a#b.jpg", "https://h/set.tar#a.jpg"])
def test_an_image_that_is_a_file_of_its_own_is_found_by_its_uri(uri):
    assert relocate(uri, None, None).location == uri
