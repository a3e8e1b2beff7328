"""Exported files lie below their destination, whatever the data says."""

from __future__ import annotations

import re

import pytest

from moondream_beam.transforms.dataset.export.names import NAME_BYTES, is_named_like, key_name, relative_name


@pytest.mark.parametrize(
    "filename, path",
    [
        ("a.jpg", "a.txt"),
        ("sub/a.b.jpg", "sub/a.b.txt"),
        ("no extension", "no extension.txt"),
        ("/etc/passwd", "etc/passwd.txt"),
        ("../../a.jpg", "_/_/a.txt"),
        ("..\\..\\a.jpg", "_\\_\\a.txt"),
        ("a\\..\\b..c.jpg", "a\\_\\b..c.txt"),
        ("back\\slash.jpg", "back\\slash.txt"),
        ("caf\udce9.jpg", "caf\udce9.txt"),
        ("sub/../../a.jpg", "sub/_/_/a.txt"),
        ("./a.jpg", "a.txt"),
        ("..", "_.txt"),
        ("", "_.txt"),
        ("a\x00\n.jpg", "a__.txt"),
        ("Zürich/日本.jpg", "Zürich/日本.txt"),
    ],
)
def test_a_name_leads_nowhere_else(filename, path):
    assert relative_name(filename, ".txt").as_posix() == path


def test_a_name_is_not_longer_than_a_disk_takes():
    *folders, part = relative_name("日" * 1000 + "/" + "日" * 1000 + ".jpg", ".txt").parts
    assert part.endswith("日.txt")
    assert all(NAME_BYTES - 3 < len(part.encode()) <= NAME_BYTES for part in (*folders, part))


def test_a_text_is_named_like_the_longest_picture():
    assert relative_name("a.b" * 83 + "aa.jpg", ".txt").name == "a.b" * 83 + "aa.txt"


@pytest.mark.parametrize(
    "filename", ["a.jpg", "sub/a.b.jpg", "back\\slash.jpg", "no extension", "caf\udce9.jpg", "sub//a.jpg"]
)
def test_a_name_is_like_its_pictures(filename):
    assert is_named_like(relative_name(filename, ".txt"), filename)


@pytest.mark.parametrize("filename", ["../a.jpg", "..\\a.jpg", "new\nline.jpg", "/a.jpg", "a" * 300])
def test_a_name_that_can_not_be_like_its_pictures_is_told(filename):
    assert not is_named_like(relative_name(filename, ".txt"), filename)


@pytest.mark.parametrize("key", ["../../../../etc/pass", "..", "", "a" * 19, "test-train-validation", "0" * 19 + "\n"])
def test_a_key_that_is_none_of_ours_is_a_digest(key):
    assert re.fullmatch("[0-9a-f]{20}", key_name(key)) and key_name(key) != key
    assert key_name("0123456789abcdef0123") == "0123456789abcdef0123"
