"""Parse, check and display URIs."""

from __future__ import annotations

import os

import pytest

from moondream_beam.models.web.urls import SECRET_NAMES
from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.io.uris import (
    basename,
    check_uri,
    display_uri,
    name_below,
    path_of,
    plain_path,
    scheme_of,
    split_bucket,
)


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("/photos/a.jpg", "file"),
        ("a.jpg", "file"),
        ("C://photos/a.jpg", "file"),
        ("file:///photos/a.jpg", "file"),
        ("S3://bucket/a.jpg", "s3"),
        ("https://example.org/a.jpg", "https"),
        ("DATA:,x", "data"),
        ("ftp://example.org/a.jpg", "ftp"),
    ],
)
def test_scheme_of_is_lower_case_and_file_for_a_path(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme


def test_path_of_decodes_file_uris_only() -> None:
    assert path_of("file:///photos/a%20b.jpg") == "/photos/a b.jpg"
    assert path_of("/photos/a%20b?.jpg") == "/photos/a%20b?.jpg"
    assert path_of("file://localhost/caf%E9.jpg") == os.fsdecode(b"/caf\xe9.jpg")


def test_a_file_uri_with_another_host_is_refused() -> None:
    for uri in ("file://photos/a.jpg", "FILE://server/share/a.jpg"):
        for function in (check_uri, path_of):
            with pytest.raises(ValueError, match="names the host (photos|server)"):
                function(uri)


def test_split_bucket_does_not_decode_the_name() -> None:
    assert split_bucket("s3://b/x/a%20[1]?#.jpg") == ("b", "x/a%20[1]?#.jpg")


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("ftp://example.org/a.jpg", "ftp:// is not supported"),
        ("http:///a.jpg", "no host"),
        ("http://[::1/a.jpg", "not a valid URL"),
        ("http://example.org:port/a.jpg", "not a valid URL"),
        ("http://exa mple.org/a.jpg", "space"),
        ("http://example.org/a.jpg\r\nHost: other", "control"),
        ("http://example.org\\@other/a.jpg", "control"),
        ("https://me:hunter2@example.org/a.jpg", "password"),
        ("https://me:hunter2@ex\u2100mple.org/a.jpg", "not a valid URL"),
        ("s3://bucket", "no bucket"),
        ("s3:///a.jpg", "no bucket"),
        ("data:image/png;base64", "comma"),
        ("a\0.jpg", "null"),
        ("a\ud800.jpg", "surrogate"),
        ("https://example.org/\udfff.jpg", "surrogate"),
        ("file://", "no path"),
    ],
)
def test_an_invalid_uri_is_refused_without_its_password(uri: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        check_uri(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "displayed"),
    [
        ("/a?sig=1.jpg", "/a?sig=1.jpg"),
        ("https://h/a.jpg?w=3#x", "https://h/a.jpg?w=3#x"),
        ("https://h/a?key=1&", "https://h/a?key=1&"),
        ("https://h/a?design=1&author=me&keyword=x", "https://h/a?design=1&author=me&keyword=x"),
        ("https://me:hunter2@h/a.jpg", "https://h/a.jpg"),
        ("https://h/a.jpg?X-Amz-Date=1&X-Amz-Signature=hunter2", "https://h/a.jpg"),
        ("https://h/a.jpg?w=3&X-Goog-Signature=hunter2&q=1", "https://h/a.jpg?w=3&q=1"),
    ],
)
def test_a_displayed_url_has_no_password_and_no_signature(uri: str, displayed: str) -> None:
    assert display_uri(uri) == displayed


def test_a_displayed_url_has_a_digest_for_each_token() -> None:
    for name in ("token", "private_token", "x-api-key", "client_secret", "q-signature", "auth_key", "Password"):
        one, two = (display_uri(f"https://h/a?w=1&{name}={token}&h=2") for token in ("hunter2", "hunter3"))
        assert one != two and "hunter" not in one + two
        assert one.startswith(f"https://h/a?w=1&{name}=sha256:") and one.endswith("&h=2")


@pytest.mark.parametrize("name", [name.strip("_") for name in SECRET_NAMES])
def test_the_value_of_each_secret_parameter_is_displayed_as_a_digest(name: str) -> None:
    for url in (f"https://h/a?{name}=hunter2", f"https://h/a?w=1&{name}=hunter2", f"https://h/{name}=hunter2/a#x"):
        assert f"{name}=sha256:f52fbd32b2b3b86f" in display_uri(url) and "hunter" not in display_uri(url)


def test_a_displayed_data_uri_has_a_digest_for_its_content() -> None:
    assert len(display_uri("data:image/png;base64," + "A" * 100_000)) < 200
    assert display_uri("data:,a") != display_uri("data:,b")


def test_a_new_signature_does_not_change_the_key_of_a_picture() -> None:
    urls = [f"https://h/a.jpg?X-Amz-Date={day}&X-Amz-Signature=x{day}" for day in (1, 2)]
    assert len({ImageRef(url, "").key for url in urls}) == 1


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/photos/a?.jpg", "a?.jpg"),
        ("https://h/x/a%20b.jpg?size=3", "a b.jpg"),
        ("https://h", ""),
        ("s3://b/x/a?b.jpg", "a?b.jpg"),
        ("data:,x", ""),
    ],
)
def test_basename_is_the_last_part_of_the_path(uri: str, name: str) -> None:
    assert basename(uri) == name


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/a/b.jpg", "/a/b.jpg"),
        ("//a/b.jpg", "/a/b.jpg"),
        ("/a//./b/../c.jpg", "/a/c.jpg"),
        ("/../../a.jpg", "/a.jpg"),
        ("/a/", "/a"),
        ("/", "/"),
        ("/a/..b/.../c..jpg", "/a/..b/.../c..jpg"),
        ("/a/link/../b.jpg", "/a/link/../b.jpg"),
        ("/a/link/./x/../../b.jpg", "/a/link/../b.jpg"),
        ("/a/link/../../b.jpg", "/a/link/../../b.jpg"),
    ],
)
def test_a_local_path_has_one_spelling_unless_it_leads_up_from_a_link(path: str, plain: str) -> None:
    assert plain_path(path, lambda folder: folder == "/a/link") == plain
    assert plain_path(plain, lambda folder: folder == "/a/link") == plain


@pytest.mark.parametrize(
    ("path", "name"),
    [("a.jpg", "a.jpg"), ("../../b/a.jpg", "b/a.jpg"), ("./b//c/../a.jpg", "b/a.jpg"), ("..a/a.jpg", "..a/a.jpg")],
)
def test_the_name_of_a_relative_path_leads_nowhere_up(path: str, name: str) -> None:
    assert name_below(path) == name
