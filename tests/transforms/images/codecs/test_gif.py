"""What the first frame of a GIF does not cover is white, as in browsers that show nothing there."""

from __future__ import annotations

import struct

import pytest
from PIL import Image
from support.data.hostile import encoded

from moondream_beam.transforms.images.decode import decode

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def small_frame(width: int, height: int, left: int, top: int, **options: object) -> bytes:
    """A blue GIF of 8 x 6 pixels on a canvas of another size. Colour 0 of its palette is red."""
    image = Image.new("P", (8, 6), 1)
    image.putpalette([*RED, *BLUE])
    content = encoded(image, "GIF", **options)
    frame = content.index(b"\x2c" + struct.pack("<4H", 0, 0, 8, 6))
    place = struct.pack("<4H", left, top, 8, 6)
    return content[:6] + struct.pack("<HH", width, height) + content[10 : frame + 1] + place + content[frame + 9 :]


@pytest.mark.parametrize("transparency", [None, 0])
def test_the_border_around_an_opaque_frame_is_white(transparency: int | None) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    picture = decode(small_frame(20, 16, 5, 4, optimize=False, **options))
    assert picture.size == (20, 16)
    for place in ((0, 0), (4, 4), (13, 9), (19, 15), (5, 3), (5, 10)):
        assert picture.getpixel(place) == WHITE
    for place in ((5, 4), (12, 9)):
        assert picture.getpixel(place) == BLUE


def test_a_transparent_frame_shows_white_everywhere() -> None:
    picture = decode(small_frame(20, 16, 5, 4, optimize=False, transparency=1))
    assert picture.getcolors() == [(20 * 16, WHITE)]


def test_a_frame_that_covers_the_image_keeps_each_pixel() -> None:
    assert decode(small_frame(8, 6, 0, 0, optimize=False)).getcolors() == [(48, BLUE)]


def test_a_frame_that_reaches_beyond_the_image_is_decoded_whole() -> None:
    picture = decode(small_frame(8, 6, 4, 3, optimize=False))
    assert picture.size == (12, 9)
    assert (picture.getpixel((0, 0)), picture.getpixel((11, 8))) == (WHITE, BLUE)


def test_a_gray_gif_with_a_border_stays_gray() -> None:
    content = encoded(Image.new("L", (8, 6), 100), "GIF", optimize=False)
    frame = content.index(b"\x2c" + struct.pack("<4H", 0, 0, 8, 6))
    content = content[:6] + struct.pack("<HH", 10, 6) + content[10:frame] + content[frame:]
    picture = decode(content)
    assert (picture.getpixel((7, 5)), picture.getpixel((8, 5))) == ((100,) * 3, WHITE)
