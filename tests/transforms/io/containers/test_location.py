"""Places inside archives and Parquet files, and the URIs that rows show for them."""

from __future__ import annotations

import pytest

from moondream_beam.transforms.io.containers.location import ImageCell, Member, cell_uri, container_of, locate


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
        ("/etc/passwd", ""),
    ],
)
def test_a_uri_names_its_container_before_the_number_sign(uri: str, expected: str) -> None:
    assert container_of(uri) == expected
    assert (locate(uri, 512, 9) is None) == (not expected)


@pytest.mark.parametrize("name", ["a.jpg", "deep/b#c.png", "a.jpg#2", "more.tar#d.png", "caf\udce9.png"])
@pytest.mark.parametrize("archive", ["/p/set #1.tar", "gs://b/set.tar.zst"])
def test_a_member_is_located_by_its_uri_and_byte_range(archive: str, name: str) -> None:
    member = Member(archive, 512, 9, name)
    assert member.uri == f"{archive}#{name}" and locate(member.uri, 512, 9) == member


@pytest.mark.parametrize("byte_range", [(None, None), (512, None), (None, 9)])
def test_a_member_without_a_byte_range_is_refused_with_the_cure(byte_range: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="/p/set.tar#a.jpg .*give its byte_offset and byte_size"):
        locate("/p/set.tar#a.jpg", *byte_range)


@pytest.mark.parametrize("column", ["image", "a/b:#1.parquet#x/1", "größe"])
@pytest.mark.parametrize("path", ["", "deep/7.png", "x#1/2"])
def test_a_cell_is_located_by_its_uri_alone(column: str, path: str) -> None:
    cell = ImageCell("/p/a.parquet", column, 12, 3)
    uri = cell_uri(cell, path)
    assert uri.endswith(f"/12/{path}" if path else "/12")
    assert locate(uri, None, None, 3) == cell and locate(uri, None, None) == cell._replace(row_group=None)
