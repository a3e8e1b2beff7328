"""What rows show of a place leads to its picture again."""

from __future__ import annotations

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.images.formats import EXTENSIONS
from moondream_beam.transforms.images.refetch import Relocator, SearchTakesLongError, archive_of, is_kept
from moondream_beam.transforms.io.containers.parquet_images import list_pictures
from moondream_beam.transforms.io.containers.tar import list_members
from moondream_beam.transforms.io.uris import display_uri, escape_non_utf8

NAMES = ["a.jpg", "deep/b#c.png", "a.jpg", "caf\u00e9.webp", "more.tar#d.png"]


def archive(path, names=NAMES, mode="w"):
    with tarfile.open(path, mode) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"%d" % number))
    return str(path)


def test_names_that_are_no_utf8_are_found_by_the_escapes_that_rows_show(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / f"{odd}.jpg").write_bytes(b"a picture")
    path = archive(tmp_path / f"{odd}.tar", [f"{odd}.jpg", "a.jpg"])
    again = Relocator(Fetcher())
    rows = [str(tmp_path / f"{odd}.jpg"), f"{path}#{odd}.jpg", f"{path}#a.jpg"]
    assert [again(escape_non_utf8(uri)) for uri in rows] == [b"a picture", b"0", b"1"]
    (tmp_path / "caf\\udce9.jpg").write_bytes(b"named with a backslash")
    assert again(escape_non_utf8(rows[0])) == b"named with a backslash"


@pytest.mark.parametrize("ending, mode", [(".tar", "w"), (".tar.gz", "w:gz"), (".txz", "w:xz")])
def test_every_member_is_found_by_what_its_row_shows(ending, mode, tmp_path):
    path = archive(tmp_path / f"set{ending}", mode=mode)
    rows = [display_uri(ref.uri) for ref in list_members(ImageRef(path, path), EXTENSIONS)]
    assert len(set(rows)) == len(NAMES)
    assert [Relocator(Fetcher())(uri) for uri in rows] == [b"%d" % number for number in range(len(NAMES))]


@pytest.mark.parametrize("nested", [False, True])
def test_every_row_of_a_parquet_file_is_found_by_what_its_row_shows(nested, tmp_path):
    path = str(tmp_path / "set.parquet")
    cells = [{"bytes": b"%d" % row, "path": f"{row}.jpg"} if nested else b"%d" % row for row in range(7)]
    pq.write_table(pa.table({"a picture": cells}), path, row_group_size=3)
    with open(path, "rb") as file:
        rows = [display_uri(listed.uri) for listed in list_pictures(path, file, "a picture", [])]
    again = Relocator(Fetcher())
    assert [again(uri) for uri in rows] == [b"%d" % row for row in range(7)]
    for gone in ("0", "8"):
        with pytest.raises(FileNotFoundError):
            again.place_of(f"{path}#a%20picture/{gone}")


def test_an_archive_is_listed_once_for_all_its_members(tmp_path):
    path = archive(tmp_path / "set.tar")
    again = Relocator(Fetcher())
    again.place_of(f"{path}#a.jpg")
    archive(tmp_path / "set.tar", ["none.jpg"])
    assert again.place_of(f"{path}#a.jpg#2")


def test_a_member_that_has_moved_is_found_where_it_lies_now(tmp_path):
    archive(tmp_path / "set.tar", ["other.jpg", "a.jpg"])
    assert Relocator(Fetcher())(f"{tmp_path}/set.tar#a.jpg") == b"1"


def test_what_is_gone_is_told_and_its_neighbours_are_found(tmp_path):
    path = archive(tmp_path / "set.tar")
    again = Relocator(Fetcher())
    with pytest.raises(FileNotFoundError, match="there is nothing of that name"):
        again(f"{path}#gone.jpg")
    for _ in range(2):
        with pytest.raises(OSError):
            again(f"{tmp_path}/no.tar#a.jpg")
    assert again(f"{path}#a.jpg") == b"0"


def test_after_so_many_seconds_no_archive_is_searched(tmp_path):
    path = archive(tmp_path / "set.tar")
    with pytest.raises(SearchTakesLongError):
        Relocator(Fetcher(), 0)(f"{path}#a.jpg")
    assert Relocator(Fetcher(), 60)(f"{path}#a.jpg") == b"0"


@pytest.mark.parametrize(
    "uri, expected",
    [
        ("/p/set.tar#a.jpg", "/p/set.tar"),
        ("s3://b/x#1/set.TAR#a.tar#b.jpg", "s3://b/x#1/set.TAR"),
        ("/p/a#b.jpg", ""),
        ("/p/set.tar", ""),
        ("/p/set.tar.gz#a.jpg", "/p/set.tar.gz"),
        ("gs://b/set.parquet#image/12/a.jpg", "gs://b/set.parquet"),
        ("/p/set.parquet#a.jpg", ""),
        ("https://h/set.tar#a.jpg", ""),
        ("data:image/png;base64,sha256:00", ""),
    ],
)
def test_the_home_of_a_place_is_told_by_its_name(uri, expected):
    assert archive_of(uri) == expected


def test_a_row_keeps_the_place_of_a_picture_but_none_that_holds_it():
    assert is_kept("/p/a.jpg") and is_kept("s3://b/a.jpg")
    assert not is_kept("data:image/png;base64,sha256:00")
