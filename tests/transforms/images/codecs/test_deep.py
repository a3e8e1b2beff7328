"""Deep JPEG and JPEG 2000, lossless JPEG and JPEG XL: right with the extra, and named without it."""

from __future__ import annotations

import random
import struct
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import ExifTags, Image
from support.data.echo import Echo

from moondream_beam.models.tasks import Caption
from moondream_beam.transforms.annotation.annotate import annotate
from moondream_beam.transforms.core.records import Failure
from moondream_beam.transforms.images.codecs import jpeg, jpeg2000, jpegxl
from moondream_beam.transforms.images.decode import UndecodableError, decode, open_image
from moondream_beam.transforms.inputs.patterns.patterns import list_images

COLOUR = (200, 60, 40)


def coloured(bits: int, channels: int = 3, width: int = 48, height: int = 32) -> np.ndarray:
    """``COLOUR`` in this depth, and opaque alpha."""
    top = (1 << bits) - 1
    pixel = [round(level * top / 255) for level in COLOUR[:3]] + [top]
    return np.full((height, width, channels), pixel[:channels], np.uint8 if bits == 8 else np.uint16)


def noise(bits: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1 << bits, (48, 64, 3)).astype(np.uint8 if bits == 8 else np.uint16)


def jp2(pixels: np.ndarray, bits: int, **options: object) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, reversible=True, level=0, **options)


def jpeg_of(pixels: np.ndarray, bits: int, lossless: bool = False) -> bytes:
    return imagecodecs.jpeg8_encode(pixels, bitspersample=bits, lossless=lossless, level=None if lossless else 98)


def jxl(pixels: np.ndarray, **options: object) -> bytes:
    return imagecodecs.jpegxl_encode(pixels, **options)


DEEP = {
    "JPEG of 12 bits": jpeg_of(coloured(12), 12),
    "lossless JPEG of 10 bits": jpeg_of(coloured(10), 10, True),
    "lossless JPEG of 16 bits": jpeg_of(coloured(16), 16, True),
    "JPEG 2000 of 3 x 10 bits": jp2(coloured(10), 10),
    "JPEG 2000 of 3 x 12 bits": jp2(coloured(12), 12, codecformat="jp2"),
    "JPEG 2000 of 4 x 16 bits": jp2(coloured(16, 4), 16, codecformat="j2k"),
    "JPEG XL": jxl(coloured(8), lossless=True),
    "JPEG XL ": jxl(coloured(16, 4), lossless=False, usecontainer=True),
}


@pytest.mark.parametrize("kind", DEEP)
def test_colours_are_right(kind: str) -> None:
    picture = decode(DEEP[kind])
    assert (picture.mode, picture.size) == ("RGB", (48, 32))
    assert picture.getpixel((20, 20)) == pytest.approx(COLOUR, abs=2)


@pytest.mark.parametrize("kind", DEEP)
def test_without_the_extra_the_message_names_the_kind_and_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UndecodableError) as caught:
        open_image(DEEP[kind])
    assert str(caught.value) == f"this {kind.strip()} needs the extra codecs: pip install 'moondream-beam[codecs]'"


@pytest.mark.parametrize("kind", DEEP)
def test_the_size_is_checked_before_anything_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moondream_beam.transforms.images.decode.MAX_PIXELS", 48 * 32 - 1)
    for name in ("jpeg8_decode", "jpeg2k_decode", "jpegxl_decode"):
        monkeypatch.setattr(imagecodecs, name, None)
    with pytest.raises(UndecodableError, match="48 x 32 pixels are more than 1535 in all"):
        open_image(DEEP[kind])


@pytest.mark.parametrize("kind", DEEP)
def test_a_file_that_is_cut_off_gives_no_partial_image(kind: str) -> None:
    content = DEEP[kind]
    for tenths in range(1, 10):
        with pytest.raises(UndecodableError):
            decode(content[: tenths * len(content) // 10])


@pytest.mark.parametrize("kind", DEEP)
def test_flipped_bytes_give_an_image_or_an_undecodable_error(kind: str) -> None:
    content, draw = DEEP[kind], random.Random(kind)
    for _ in range(100):
        broken = bytearray(content)
        for _ in range(draw.choice([1, 3, 30])):
            broken[draw.randrange(min(len(broken), draw.choice([60, 10**6])))] = draw.randrange(256)
        try:
            assert decode(bytes(broken)).mode == "RGB"
        except UndecodableError as error:
            assert str(error) and "b'" not in str(error)


@pytest.mark.parametrize("bits, lossless", [(12, True), (16, True)])
def test_a_lossless_jpeg_keeps_every_pixel(bits: int, lossless: bool) -> None:
    pixels = noise(bits)
    wanted = (pixels * (255 / ((1 << bits) - 1)) + 0.5).astype(np.uint8)
    assert np.array_equal(np.asarray(decode(jpeg_of(pixels, bits, lossless))), wanted)


@pytest.mark.parametrize("orientation, size", [(1, (48, 32)), (6, (32, 48))])
def test_a_deep_jpeg_is_turned_upright(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    segment = exif.tobytes()
    content = DEEP["JPEG of 12 bits"]
    marked = content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    assert decode(marked).size == size


def test_transparent_pixels_are_white() -> None:
    pixels = coloured(16, 4)
    pixels[..., 3] = 0
    for content in (jp2(pixels, 16), jxl(pixels, lossless=True)):
        assert decode(content).getpixel((3, 3)) == (255, 255, 255)


def test_eight_bits_go_through_pillow_and_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [jp2(coloured(8), 8), jp2(coloured(12)[..., 0], 12), jpeg_of(coloured(8), 8), jpeg_of(coloured(8), 8, True)]
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    for content in files:
        assert decode(content).getpixel((3, 3))[0] == pytest.approx(200, abs=2)


@pytest.mark.parametrize("height", [1, 8, 256, 800])
@pytest.mark.parametrize("width", [1, 8, 40, 513, 1200])
def test_the_size_in_the_header_of_jpeg_xl_is_read(width: int, height: int) -> None:
    for bits, channels in ((8, 3), (12, 4)):
        content = jxl(coloured(bits, channels, width, height), bitspersample=bits, effort=1)
        header = jpegxl.read_header(content)
        assert header and (header.size, header.bits, header.problem) == ((width, height), bits, "")


def test_only_the_first_frame_of_an_animated_jpeg_xl_is_decoded(memory_peak) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (100, 256, 256, 3)).astype(np.uint8)
    content = jxl(frames, lossless=True, effort=1)
    memory_peak()
    started = time.process_time()
    assert np.array_equal(np.asarray(decode(content)), frames[0])
    assert time.process_time() - started < 0.5
    assert memory_peak() < 4 << 20


def jpeg2000_with(content: bytes, name: bytes, body: bytes) -> bytes:
    """A JP2 file with one more box in its header."""
    place = content.index(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", content, place)
    box = struct.pack(">I4s", 8 + len(body), name) + body
    return (
        content[:place]
        + struct.pack(">I", size + len(box))
        + content[place + 4 : place + size]
        + box
        + content[place + size :]
    )


def siz(content: bytes, component: int, depth: int, step: int = 1) -> bytes:
    """A JPEG 2000 whose header states another depth, or another sampling, of a component."""
    place = content.index(b"\xff\x4f\xff\x51") + 42 + 3 * component
    return content[:place] + bytes([depth, step, step]) + content[place + 3 :]


TWELVE = jp2(coloured(12), 12, codecformat="jp2")


@pytest.mark.parametrize(
    "content, message",
    [
        (siz(TWELVE, 2, 7), "JPEG 2000 of 3 x 12 bits has channels of different depths"),
        (siz(TWELVE, 1, 11, 2), "has channels of different sizes"),
        (siz(siz(siz(TWELVE, 0, 27), 1, 27), 2, 27), "JPEG 2000 of 3 x 28 bits has 28 bits"),
        (jpeg2000_with(TWELVE, b"pclr", struct.pack(">HB", 0, 0)), "has a palette"),
        (
            jpeg2000_with(TWELVE, b"colr", struct.pack(">BBBI", 1, 0, 0, 12)),
            r"kind other than gray and RGB \(EnumCS 12\)",
        ),
        (jxl(coloured(8).astype(np.float32) / 255), "JPEG XL has pixels of floating point"),
    ],
)
def test_a_kind_whose_colours_are_not_known_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UndecodableError, match=f"{message}, which can't be decoded: save it as PNG"):
        open_image(content)


def test_a_deep_jpeg_of_four_channels_is_refused() -> None:
    content = jpeg_of(coloured(12), 12)
    frame = content.index(b"\xff\xc1")
    content = content[: frame + 9] + b"\x04" + content[frame + 10 :]
    with pytest.raises(UndecodableError, match="JPEG of 12 bits has 4 channels, which can't be decoded"):
        open_image(content)


def test_headers_of_other_files_are_no_headers() -> None:
    for content in (b"", b"\xff\xd8", b"\xff\x0b", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\xd8\xff\xd9"):
        assert jpeg.read_header(content) is jpeg2000.read_header(content) is jpegxl.read_header(content) is None


def test_a_jpeg_xl_in_a_folder_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.jxl").write_bytes(DEEP["JPEG XL"])
    (row,) = annotate(list_images(str(tmp_path)), [Caption("short")], Echo())
    assert (row.filename, row.width, row.height) == ("a.jxl", 48, 32)


def test_a_jpeg_xl_in_a_folder_is_an_error_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    (tmp_path / "a.jxl").write_bytes(DEEP["JPEG XL"])
    (row,) = annotate(list_images(str(tmp_path)), [Caption("short")], Echo())
    assert isinstance(row, Failure)
    assert (row.stage, row.filename) == ("decode", "a.jxl") and "moondream-beam[codecs]" in row.message
