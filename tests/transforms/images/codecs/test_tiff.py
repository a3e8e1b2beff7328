"""TIFF of kinds that Pillow decodes wrongly or can't read: right pixels, or a message that says what the file holds."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.data.pixels import DEFLATE, tiff

from moondream_beam.transforms.images.decode import UndecodableError, decode, open_image

# Photometric, extra samples, and colour of a pixel as shares.
KINDS = {
    "rgb": ("rgb", (), (0.8, 0.2, 0.1)),
    "alpha": ("rgb", ("unassalpha",), (0.8, 0.2, 0.1, 1)),
    "cmyk": ("separated", (), (0.2, 0.8, 0.9, 0)),
}


def written(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def colours(dtype: str, colour: tuple[float, ...]) -> np.ndarray:
    """37 x 50 pixels: a black border, and ``colour`` inside."""
    pixels = np.zeros((37, 50, len(colour)), dtype)
    pixels[..., 3:] = np.iinfo(dtype).max if colour[3:] == (1,) else 0
    pixels[5:30, 5:40] = (np.array(colour) * np.iinfo(dtype).max).round()
    return pixels


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_right_in_every_layout(
    kind: str, planes: str, compression: str | None, tile: tuple[int, int] | None, dtype: str, order: str
) -> None:
    photometric, extra, colour = KINDS[kind]
    pixels = colours(dtype, colour)
    if planes == "separate":
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    picture = decode(
        written(
            pixels,
            photometric=photometric,
            planarconfig=planes,
            compression=compression,
            tile=tile,
            byteorder=order,
            extrasamples=extra or None,
        )
    )
    assert picture.size == (50, 37)
    for place in ((6, 6), (39, 29), (20, 17)):
        assert picture.getpixel(place) == pytest.approx((204, 51, 26), abs=2)


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize("width", [8, 9])
def test_gray_of_twelve_bits_uses_the_whole_range(width: int, compression: int) -> None:
    row = [0, 1024, 2048, 4095, *[0] * (width - 4)]
    picture = decode(tiff([row] * 3, (12,), 1, compression=compression))
    assert [picture.getpixel((x, 2))[0] for x in range(4)] == pytest.approx([0, 64, 128, 255], abs=1)


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_gray_whose_zero_is_white_is_no_negative(
    dtype: str, compression: str | None, tile: tuple[int, int] | None
) -> None:
    pixels = np.zeros((24, 40), dtype)
    pixels[6:18, 10:30] = np.iinfo(dtype).max
    picture = decode(written(pixels, photometric="miniswhite", compression=compression, tile=tile))
    assert (picture.getpixel((1, 1)), picture.getpixel((20, 12))) == ((255,) * 3, (0,) * 3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_deep_gray_is_turned_upright_once(orientation: int) -> None:
    pixels = np.zeros((32, 64), np.uint16)
    pixels[:16, :32] = 65_535
    turned = {1: (0, 0), 3: (63, 31), 6: (31, 0), 8: (0, 63)}[orientation]
    picture = decode(written(pixels, photometric="minisblack", extratags=[(274, 3, 1, orientation, True)]))
    assert picture.size == ((64, 32) if orientation in (1, 3) else (32, 64))
    assert picture.getpixel(turned) == (255,) * 3
    assert sorted({level for _, level in picture.getcolors()}) == [(0,) * 3, (255,) * 3]


@pytest.mark.parametrize("orientation", [1, 6])
def test_planes_of_sixteen_bits_are_turned_upright_once(orientation: int) -> None:
    pixels = np.zeros((3, 32, 64), np.uint16)
    pixels[0, :16, :32] = 65_535
    content = written(pixels, photometric="rgb", planarconfig="separate", extratags=[(274, 3, 1, orientation, True)])
    picture = decode(content)
    assert picture.size == ((64, 32) if orientation == 1 else (32, 64))
    assert picture.getpixel((0, 0) if orientation == 1 else (31, 0)) == (255, 0, 0)


COLOUR = np.full((16, 16, 3), 100, np.uint8)
GRAY = COLOUR[..., 0]
UNREADABLE = {
    "big-endian BigTIFF": (COLOUR, {"bigtiff": True, "byteorder": ">", "photometric": "rgb"}, "big-endian BigTIFF"),
    "colours of floats": (COLOUR / np.float32(255), {"photometric": "rgb"}, "3 x 32 bits a pixel, floating point, RGB"),
    "floats of 64 bits": (GRAY / 255, {"photometric": "minisblack"}, "1 x 64 bits a pixel, floating point, gray"),
    "gray with alpha": (
        COLOUR[..., :2].astype("uint16"),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        "2 x 16 bits a pixel, unsigned, gray, 0 is black",
    ),
    "LAB of 16 bits": (COLOUR.astype("uint16"), {"photometric": "cielab"}, "3 x 16 bits a pixel, unsigned, CIELab"),
    "complex": (GRAY.astype("complex64"), {"photometric": "minisblack"}, "1 x 64 bits a pixel, complex"),
    "signed of 8 bits": (GRAY.astype("int8"), {"photometric": "minisblack"}, "1 x 8 bits a pixel, signed"),
    "signed of 16 bits": (GRAY.astype("int16"), {"photometric": "minisblack"}, "1 x 16 bits a pixel, signed"),
    "signed of 32 bits": (GRAY.astype("int32"), {"photometric": "minisblack"}, "1 x 32 bits a pixel, signed"),
    "32 bits": (GRAY.astype("uint32"), {"photometric": "minisblack"}, "1 x 32 bits a pixel, unsigned"),
    "gray and alpha in planes": (
        np.ascontiguousarray(COLOUR[..., :2].transpose(2, 0, 1)),
        {
            "photometric": "minisblack",
            "planarconfig": "separate",
            "extrasamples": ["unassalpha"],
            "compression": "zlib",
        },
        "2 x 8 bits a pixel, unsigned, gray, .* separate planes",
    ),
    "premultiplied RGBA in planes": (
        np.full((4, 16, 16), 100, np.uint8),
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["assocalpha"]},
        "4 x 8 bits a pixel, unsigned, RGB, uncompressed, separate planes",
    ),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's, of the BigTIFF
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_whole_tiff_of_an_unreadable_kind_is_named(kind: str) -> None:
    pixels, options, message = UNREADABLE[kind]
    with pytest.raises(
        UndecodableError,
        match=f"this TIFF .*{message}.* can't be decoded.*: save the picture as PNG|"
        f"kind that can't be decoded .*{message}.*: save the picture as PNG",
    ):
        decode(written(pixels, **options))


@pytest.mark.parametrize("length", [4, 8, 9, 12])
def test_a_tiff_that_is_cut_off_before_its_directory_is_called_broken(length: int) -> None:
    with pytest.raises(UndecodableError, match="the TIFF file is broken: replace it|replace the file"):
        open_image(tiff([[1, 2, 3]], (8,), 1)[:length])


def test_a_directory_that_claims_a_huge_number_of_values_is_read_in_little_memory(memory_peak) -> None:
    content = bytearray(tiff([[0, 65_535]], (16,), 1, tags={330: (4, [8])}))
    tag = content.index(struct.pack("<HHI", 330, 4, 1))
    content[tag + 4 : tag + 8] = struct.pack("<I", 1 << 31)
    memory_peak()
    try:
        assert decode(bytes(content)).size == (2, 1)
    except UndecodableError as error:
        assert "replace the file" in str(error)
    assert memory_peak() < 10 << 20


def test_a_tiff_of_floats_is_refused_as_before() -> None:
    with pytest.raises(UndecodableError, match="floating point"):
        decode(written(np.asarray(Image.new("F", (4, 4), 0.5)), photometric="minisblack"))
