"""White stays white, black black and mid-gray mid-gray, in every kind of pixels that a file can hold."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, TiffImagePlugin
from support.data.hostile import encoded
from support.data.pixels import DEFLATE, chunk, packed, png, tiff

from moondream_beam.transforms.images.decode import UndecodableError, decode

SHARES = (0, 0.5, 1)
WHITE_IS_ZERO, PALETTE, CMYK, YCBCR, LAB = 0, 3, 5, 6, 8
MID_L = 119  # The gray of lightness 50 in CIELab.
ALPHA = (1, 2, 999)
# Format -> the modes that Pillow writes in it.
WRITTEN = {
    "WEBP": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"),
    "GIF": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "ICO": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "JPEG": ("1", "L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
}
# Each kind that Pillow opens, uncompressed and compressed. Of compressed ones, libtiff reads no reversed bits that were
# compressed before they were reversed, and no YCbCr of one sample.
TIFF_KINDS = [
    (kind, compression)
    for kind in TiffImagePlugin.OPEN_INFO
    for compression in (1, DEFLATE)
    if compression == 1 or not (kind[3] == 2 or (kind[1], *kind[4]) == (YCBCR, 8))
]


def levels_of(content: bytes) -> list[tuple[int, ...]]:
    """The pixels in the middle of three columns: black, mid-gray and white."""
    picture = decode(content)
    third = picture.width // 3
    return [picture.getpixel((third * column + third // 2, picture.height // 2)) for column in range(3)]


def check(content: bytes, wanted: Sequence[float] = (0, 128, 255)) -> None:
    assert levels_of(content) == [pytest.approx((level,) * 3, abs=2) for level in wanted]


def columns(top: int, channels: int) -> np.ndarray:
    """Three columns of 16 x 32 pixels: black, mid-gray and white, with opaque alpha if there are 2 or 4 channels."""
    pixels = np.zeros((32, 48, channels), np.uint8 if top < 256 else np.uint16)
    pixels[:, 16:32], pixels[:, 32:] = (top + 1) // 2, top
    if channels in (2, 4):
        pixels[..., -1] = top
    return pixels if channels > 1 else pixels[..., 0]


def tiff_pixel(share: float, photometric: int, sample_format: int, bits: Sequence[int], extra: Sequence[int]):
    """The samples of a gray pixel."""
    top = (1 << bits[0]) - 1
    level = share if sample_format == 3 else round(share * top) - (sample_format == 2) * (top + 1) // 2
    white = 1 if sample_format == 3 else top
    colour = {
        WHITE_IS_ZERO: [white - level],
        1: [level],
        2: [level] * 3,
        PALETTE: [level],
        CMYK: [0, 0, 0, top - level],
        YCBCR: [level, 128, 128] if len(bits) > 1 else [level],
        LAB: [level, 0, 0],
    }[photometric]
    colour += [top if kind in ALPHA else 0 for kind in extra]
    # RGB of four samples without ExtraSamples has alpha.
    return colour + [top] * (len(bits) - len(colour))


def is_refused(photometric: int, sample_format: int, fill_order: int, bits: Sequence[int], compression: int) -> bool:
    """Whether a kind has no stated black and white, or no decoder."""
    reversed_bits = fill_order == 2 and (photometric == PALETTE and bits[0] < 8 or (photometric, *bits) == (0, 8))
    no_decoder = reversed_bits or (photometric == YCBCR and len(bits) == 3 and compression == 1)
    return sample_format != 1 or bits[0] == 32 or no_decoder


@pytest.mark.parametrize("kind, compression", TIFF_KINDS)
def test_each_kind_of_tiff_that_pillow_opens_is_right_or_named(kind, compression: int) -> None:
    order, photometric, (sample_format, *_), fill_order, bits, extra = kind
    pixels = [tiff_pixel(share, photometric, sample_format, bits, extra) for share in SHARES for _ in range(3)]
    top = (1 << bits[0]) - 1
    ramp = [round(65535 * index / top) for index in range(top + 1)] if photometric == PALETTE else []
    content = tiff(
        [sum(pixels, [])] * 4,
        bits,
        photometric,
        sample_format=sample_format,
        fill_order=fill_order,
        extra=extra,
        big_endian=order == b"MM",
        compression=compression,
        tags={320: (3, ramp * 3)} if ramp else {530: (3, (1, 1))} if photometric == YCBCR else None,
    )
    if is_refused(photometric, sample_format, fill_order, bits, compression):
        with pytest.raises(UndecodableError, match="TIFF holds pixels of a kind|floating point.*save the image"):
            decode(content)
        return
    middle = MID_L if photometric == LAB else 255 * round(top / 2) / top
    if photometric in (WHITE_IS_ZERO, CMYK):
        middle = 255 - 255 * (top - round(top / 2)) / top
    check(content, (0, middle, 255))


@pytest.mark.parametrize(
    "bits, colour_type, channels",
    [(bits, 0, 1) for bits in (1, 2, 4, 8, 16)]
    + [(bits, *kind) for bits in (8, 16) for kind in ((2, 3), (4, 2), (6, 4))],
)
def test_png_of_every_depth_and_colour_type(bits: int, colour_type: int, channels: int) -> None:
    top = (1 << bits) - 1
    row = [[level] * min(channels, 3) for level in (0, (top + 1) // 2, top)]
    if channels in (2, 4):
        row = [[pixel[0]] * (channels - 1) + [top] for pixel in row]
    content = png([sum(row, [])], bits, colour_type, channels=channels)
    check(content, (0, 255 * ((top + 1) // 2) / top, 255))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_with_a_palette_of_every_depth(bits: int) -> None:
    palette = bytes([0, 0, 0, 255, 255, 255]) + bytes([128] * 3) * (bits > 1)
    content = png([[0, 2 if bits > 1 else 1, 1]], bits, 3, chunk(b"PLTE", palette))
    check(content, (0, 128 if bits > 1 else 255, 255))


@pytest.mark.parametrize("top", [1, 3, 255, 511, 1023, 4095, 65535])
@pytest.mark.parametrize("magic, channels", [("P5", 1), ("P6", 3), ("P2", 1), ("P3", 3)])
def test_ppm_of_every_depth(top: int, magic: str, channels: int) -> None:
    samples = [level for level in (0, (top + 1) // 2, top) for _ in range(channels)]
    data = packed([samples], 8 if top < 256 else 16) if magic in ("P5", "P6") else " ".join(map(str, samples)).encode()
    check(f"{magic} 3 1 {top}\n".encode() + data + b"\n", (0, 255 * ((top + 1) // 2) / top, 255))


@pytest.mark.parametrize(
    "bits, masks, row, middle",
    [
        (16, (), struct.pack("<4H", 0, 16 << 10 | 16 << 5 | 16, 0x7FFF, 0), 131),
        (16, (0xF800, 0x7E0, 0x1F), struct.pack("<4H", 0, 16 << 11 | 32 << 5 | 16, 0xFFFF, 0), 130),
        (24, (), bytes(3) + b"\x80" * 3 + b"\xff" * 3 + bytes(3), 128),
        (32, (), bytes(4) + b"\x80\x80\x80\0" + b"\xff\xff\xff\0", 128),
    ],
)
def test_bmp_of_every_depth(bits: int, masks: tuple[int, ...], row: bytes, middle: int) -> None:
    start = 54 + 4 * len(masks)
    compression = 3 if masks else 0
    header = struct.pack("<IiiHHIIiiII", 40, 3, 1, 1, bits, compression, len(row), 0, 0, 0, 0)
    file = b"BM" + struct.pack("<IHHI", start + len(row), 0, 0, start) + header
    check(file + struct.pack(f"<{len(masks)}I", *masks) + row, (0, middle, 255))


@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [4, 7, 8, 9, 10, 12, 16])
def test_jpeg_2000_of_every_depth(bits: int, channels: int, container: str) -> None:
    top = (1 << bits) - 1
    content = imagecodecs.jpeg2k_encode(
        columns(top, channels), bitspersample=bits, codecformat=container, reversible=True, level=0
    )
    check(content, (0, 255 * ((top + 1) // 2) / top, 255))


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_of_signed_numbers(bits: int) -> None:
    pixels = (columns((1 << bits) - 1, 3).astype(int) - (1 << (bits - 1))).astype(np.int16)
    check(imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, reversible=True, level=0))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_jpeg_xl_of_every_depth(bits: int, channels: int) -> None:
    check(imagecodecs.jpegxl_encode(columns((1 << bits) - 1, channels), bitspersample=bits, lossless=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits, is_lossless", [(8, False), (12, False), (8, True), (10, True), (12, True), (16, True)])
def test_jpeg_of_every_depth(bits: int, is_lossless: bool, channels: int) -> None:
    check(
        imagecodecs.jpeg8_encode(
            columns((1 << bits) - 1, channels),
            bitspersample=bits,
            lossless=is_lossless,
            level=None if is_lossless else 95,
        )
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_of_every_depth(bits: int, channels: int) -> None:
    check(imagecodecs.avif_encode(columns((1 << bits) - 1, channels), level=100, bitspersample=bits))


@pytest.mark.parametrize("to_twelve_bits", [True, False])
@pytest.mark.parametrize("mode, channels", [("I;16", 1), ("LA;16", 2), ("RGB;16", 3), ("RGBA;16", 4)])
def test_heif_of_every_depth(mode: str, channels: int, to_twelve_bits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", to_twelve_bits)
    heif = pillow_heif.from_bytes(mode=mode, size=(48, 32), data=columns(65_535, channels).tobytes())
    file = io.BytesIO()
    heif.save(file, quality=-1)
    check(file.getvalue())


@pytest.mark.parametrize("kind, mode", [(kind, mode) for kind, modes in WRITTEN.items() for mode in modes])
def test_modes_of_eight_bits(kind: str, mode: str) -> None:
    image = Image.fromarray(columns(255, 3))
    if mode == "1":
        image = image.convert("L").point(lambda level: 255 * (level > 200)).convert("1")
    else:
        image = image.quantize(3) if mode == "P" else image.convert(mode)
    content = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    check(content, (0, 0 if mode == "1" else 128, 255))
