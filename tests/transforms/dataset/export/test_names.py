"""Names of exported files lie below the destination, even if the data holds hostile names."""

from __future__ import annotations

import re

import pytest

from moondream_beam.transforms.dataset.export.names import MAX_NAME_BYTES, is_named_like, key_name, relative_name


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
def test_a_name_stays_below_the_destination(filename, path):
    assert relative_name(filename, ".txt").as_posix() == path


def test_a_long_name_is_truncated():
    *folders, part = relative_name("日" * 1000 + "/" + "日" * 1000 + ".jpg", ".txt").parts
    assert part.endswith("日.txt")
    assert all(MAX_NAME_BYTES - 3 < len(part.encode()) <= MAX_NAME_BYTES for part in (*folders, part))


def test_the_longest_name_is_not_truncated():
    assert relative_name("a.b" * 83 + "aa.jpg", ".txt").name == "a.b" * 83 + "aa.txt"


@pytest.mark.parametrize(
    "filename", ["a.jpg", "sub/a.b.jpg", "back\\slash.jpg", "no extension", "caf\udce9.jpg", "sub//a.jpg"]
)
def test_a_plain_name_is_kept_except_its_extension(filename):
    assert is_named_like(relative_name(filename, ".txt"), filename)


@pytest.mark.parametrize("filename", ["../a.jpg", "..\\a.jpg", "new\nline.jpg", "/a.jpg", "a" * 300])
def test_a_changed_name_is_recognized(filename):
    assert not is_named_like(relative_name(filename, ".txt"), filename)


@pytest.mark.parametrize("key", ["../../../../etc/pass", "..", "", "a" * 19, "test-train-validation", "0" * 19 + "\n"])
def test_an_invalid_key_is_replaced_by_a_digest(key):
    assert re.fullmatch("[0-9a-f]{20}", key_name(key)) and key_name(key) != key
    assert key_name("0123456789abcdef0123") == "0123456789abcdef0123"
