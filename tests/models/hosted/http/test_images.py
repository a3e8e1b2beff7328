"""Pictures as JPEG and URLs as an API gets them."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from support.hosted.pictures import number_of, numbered

from moondream_beam.models.hosted.http.images import MAX_SIDE, encode, public_url


def test_a_large_picture_is_scaled_down_in_proportion():
    image = Image.open(io.BytesIO(encode(Image.new("RGB", (4000, 1000), "red"))))
    assert image.size == (MAX_SIDE, MAX_SIDE // 4) and image.format == "JPEG"


def test_a_small_picture_keeps_its_size():
    assert number_of(encode(numbered(321))) == 321


def test_a_picture_one_pixel_high_keeps_that_pixel():
    assert Image.open(io.BytesIO(encode(Image.new("RGB", (9000, 1))))).size == (MAX_SIDE, 1)


@pytest.mark.parametrize("picture", [Image.new("RGB", (0, 0)), Image.new("RGBA", (2, 2)), Image.new("L", (2, 2))])
def test_a_picture_that_is_empty_or_not_rgb_is_a_value_error(picture):
    with pytest.raises(ValueError, match="picture"):
        encode(picture)


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.org/a.jpg",
        "https://example.org:8443/a%20b.jpg?width=3&v=2",
        "https://93.184.216.34/a.jpg",
        "https://[2606:4700::1]/a.jpg",
        "https://a.b.example.co.uk./a.jpg",
    ],
)
def test_a_public_url_is_returned(uri):
    assert public_url(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "",
        "a.jpg",
        "/home/me/a.jpg",
        "file:///a.jpg",
        "gs://bucket/a.jpg",
        "data:image/png;base64,AAAA",
        "ftp://example.org/a.jpg",
        "https://localhost/a.jpg",
        "https://intranet/a.jpg",
        "https://printer.local/a.jpg",
        "https://db.internal/a.jpg",
        "https://127.0.0.1/a.jpg",
        "https://10.1.2.3/a.jpg",
        "https://169.254.169.254/latest",
        "https://[::1]/a.jpg",
        "https://[fd00::1]/a.jpg",
        "https://2130706433/a.jpg",
        "https://0x7f.1/a.jpg",
        "https://user@example.org/a.jpg",
        "https://user:secret@example.org/a.jpg",
        "https://example.org/a.jpg?X-Amz-Signature=0",
        "https://example.org/a.jpg?sig=0",
        "https://example.org/a.jpg?access_token=",
        "https://example.org:99999/a.jpg",
        "https://exämple.org/a.jpg",
        "https://example.org/" + "a" * 2048,
        "https://[::1",
    ],
)
def test_no_other_uri_is_public(uri):
    assert public_url(uri) is None
