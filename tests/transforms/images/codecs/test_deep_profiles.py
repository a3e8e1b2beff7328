"""The colour profiles of images that imagecodecs decodes, and of JPEG 2000."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image
from support.data.hostile import encoded
from support.data.profiles import DISPLAY_P3, SRGB

from moondream_beam.transforms.images.codecs import jpegxl
from moondream_beam.transforms.images.codecs.deep import Header
from moondream_beam.transforms.images.decode import UndecodableError, decode

imagecodecs = pytest.importorskip("imagecodecs")

STORED, IN_SRGB = (200, 60, 40), (217, 42, 23)


def pixels(bits: int) -> np.ndarray:
    top = (1 << bits) - 1
    pixel = [round(level * top / 255) for level in STORED]
    return np.full((32, 48, 3), pixel, np.uint8 if bits == 8 else np.uint16)


def jpeg_of_12_bits(*parts: bytes) -> bytes:
    """A JPEG of 12 bits with a profile in these parts, the first of which is number 1."""
    content: bytes = imagecodecs.jpeg8_encode(pixels(12), bitspersample=12, level=98)
    segments = b""
    for number, part in enumerate(parts, 1):
        body = b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        segments += b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body
    return content[:2] + segments + content[2:]


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def jp2(bits: int, profile: bytes, method: int = 2) -> bytes:
    """A JP2 file whose colours are those of a profile."""
    content: bytes = imagecodecs.jpeg2k_encode(
        pixels(bits), bitspersample=bits, reversible=True, level=0, codecformat="jp2"
    )
    start = content.index(b"jp2h") - 4
    size = int.from_bytes(content[start : start + 4], "big")
    header = content[start + 8 : start + size]
    colours = header.index(b"colr") - 4
    old = int.from_bytes(header[colours : colours + 4], "big")
    new = box(b"colr", bytes([method, 0, 0]) + profile)
    header = header[:colours] + new + header[colours + old :]
    return content[:start] + box(b"jp2h", header) + content[start + size :]


def middle(content: bytes, choice: str = "srgb") -> tuple[int, ...]:
    return decode(content, choice).getpixel((20, 16))  # type: ignore[arg-type, return-value]


FILES = {
    "JPEG of 12 bits": jpeg_of_12_bits(DISPLAY_P3),
    "JPEG of 12 bits, profile in three parts": jpeg_of_12_bits(DISPLAY_P3[:100], DISPLAY_P3[100:999], DISPLAY_P3[999:]),
    "JPEG 2000 of 8 bits": jp2(8, DISPLAY_P3),
    "JPEG 2000 of 12 bits": jp2(12, DISPLAY_P3),
    "JPEG 2000, any ICC profile": jp2(8, DISPLAY_P3, method=3),
}


@pytest.mark.parametrize("kind", FILES)
def test_display_p3_becomes_srgb_only_on_request(kind: str) -> None:
    assert middle(FILES[kind]) == pytest.approx(IN_SRGB, abs=2)
    assert middle(FILES[kind], "ignore") == pytest.approx(STORED, abs=2)


@pytest.mark.parametrize("content", [jpeg_of_12_bits(), jpeg_of_12_bits(SRGB), jp2(8, SRGB), jp2(12, SRGB)])
def test_srgb_stays(content: bytes) -> None:
    assert middle(content) == middle(content, "ignore") == pytest.approx(STORED, abs=2)


def test_enumerated_srgb_in_jpeg_2000_stays() -> None:
    assert middle(encoded(Image.new("RGB", (48, 32), STORED), "JPEG2000")) == pytest.approx(STORED, abs=2)


@pytest.mark.parametrize(
    "content", [jpeg_of_12_bits(DISPLAY_P3[:100], DISPLAY_P3[100:]).replace(b"ICC_PROFILE\0\2", b"ICC_PROFILE\0\3")]
)
def test_a_profile_with_a_missing_part_is_refused(content: bytes) -> None:
    with pytest.raises(UndecodableError, match="the colour profile in the file can't be read"):
        decode(content, "srgb")
    assert middle(content, "ignore") == pytest.approx(STORED, abs=2)


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_xl_of_srgb_stays(channels: int, lossless: bool) -> None:
    whole = np.full((32, 48, 4), 255, np.uint8)
    whole[..., :3] = pixels(8)
    shown = whole[..., 0] if channels == 1 else whole[..., :channels]
    content = imagecodecs.jpegxl_encode(np.ascontiguousarray(shown), lossless=lossless)
    assert decode(content, "srgb").tobytes() == decode(content).tobytes()


def test_jpeg_xl_of_linear_light_is_refused_on_request() -> None:
    # imagecodecs marks pixels of 16 bits as linear.
    content = imagecodecs.jpegxl_encode(pixels(16), lossless=True)
    with pytest.raises(UndecodableError, match="the colour profile in the file can't be read"):
        decode(content, "srgb")
    assert middle(content, "ignore") == STORED


class Bits:
    """Bits of a JPEG XL header, the lowest of each byte first."""

    def __init__(self) -> None:
        self.value, self.count = 0, 0

    def put(self, value: int, count: int) -> Bits:
        self.value |= value << self.count
        self.count += count
        return self

    def number(self, value: int) -> Bits:
        """An enumerated value, up to 17."""
        return self.put(value, 2) if value < 2 else self.put(2, 2).put(value - 2, 4)

    def header(self) -> Header | None:
        return jpegxl.read_header(b"\xff\x0a" + self.value.to_bytes(self.count // 8 + 9, "little"))


def jxl_header() -> Bits:
    """The header of 8 x 8 pixels of 8 bits without extra channels, up to the colour encoding."""
    size = Bits().put(1, 1).put(0, 5).put(1, 3)
    return size.put(0, 1).put(0, 1).put(0, 1).put(0, 2).put(1, 1).put(0, 2).put(0, 1)


def encoding(space: int = 0, white: int = 1, primaries: int = 1, transfer: int = 13) -> Bits:
    """A colour encoding of JPEG XL that is neither the default nor an ICC profile."""
    bits = jxl_header().put(0, 1).put(0, 1).number(space).number(white)
    return (bits.number(primaries) if space == 0 else bits).put(0, 1).number(transfer).number(1)


def test_jpeg_xl_of_srgb_is_told_by_its_header() -> None:
    for bits in (jxl_header().put(1, 1), encoding(), encoding(space=1)):
        header = bits.header()
        assert header and (header.size, header.problem, header.profile) == ((8, 8), "", b"")


@pytest.mark.parametrize(
    "bits",
    [
        jxl_header().put(0, 1).put(1, 1),
        encoding(primaries=11),
        encoding(primaries=9, transfer=16),
        encoding(white=11),
        encoding(transfer=1),
        encoding(space=1, transfer=8),
        jxl_header().put(0, 1).put(0, 1).number(0).number(1).number(1).put(1, 1).put(4_545_455, 24),
    ],
    ids=["ICC profile", "Display P3", "BT.2100 PQ", "white of DCI", "BT.709", "linear gray", "gamma 2.2"],
)
def test_jpeg_xl_of_other_colours_has_a_profile_that_cannot_be_read(bits: Bits) -> None:
    header = bits.header()
    assert header and header.profile is None and not header.problem
