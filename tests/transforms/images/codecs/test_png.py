"""PNG with much text, and with a transparent colour, are decoded as a viewer shows them."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.data.hostile import encoded
from support.data.pixels import chunk, png

from moondream_beam.transforms.images.decode import UndecodableError, decode, open_image

WHITE, BLACK = (255,) * 3, (0,) * 3
MIB = 1 << 20
WORKFLOW = b"A node of a workflow. " * (3 * MIB // 22)


def text(kind: bytes, content: bytes, key: bytes = b"workflow") -> bytes:
    """A chunk of text: plain, compressed, or international and compressed."""
    body = {
        b"tEXt": lambda: key + b"\0" + content,
        b"zTXt": lambda: key + b"\0\0" + zlib.compress(content),
        b"iTXt": lambda: key + b"\0\1\0\0\0" + zlib.compress(content),
    }[kind]()
    return chunk(kind, body)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))


def with_chunks(content: bytes, chunks: bytes, behind: bool) -> bytes:
    place = content.index(b"IEND" if behind else b"IDAT") - 4
    return content[:place] + chunks + content[place:]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        text(b"zTXt", WORKFLOW),
        text(b"iTXt", WORKFLOW),
        text(b"tEXt", b"a short text") + text(b"zTXt", WORKFLOW) + text(b"iTXt", WORKFLOW),
        # Each is short, and all together are more than Pillow's limit of 64 MiB.
        text(b"zTXt", b"a" * (MIB - 1)) * 66,
    ],
    ids=["compressed", "international", "three", "many"],
)
def test_text_is_not_needed_to_read_pixels(chunks: bytes, behind: bool) -> None:
    content = encoded(noise())
    assert decode(with_chunks(content, chunks, behind)).tobytes() == decode(content).tobytes()


@pytest.mark.parametrize("behind", [False, True])
def test_the_orientation_survives_beside_much_text(behind: bool) -> None:
    exif = Image.Exif()
    exif[274] = 6
    content = with_chunks(encoded(noise(), exif=exif), text(b"zTXt", WORKFLOW), behind)
    assert decode(content).size == (48, 64)


def test_the_orientation_in_xmp_survives_beside_much_text() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    chunks = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    content = encoded(noise())
    assert decode(with_chunks(content, chunks, False)).size == (48, 64)
    assert decode(with_chunks(content, chunks + text(b"zTXt", WORKFLOW), False)).size == (48, 64)


def test_a_broken_png_with_much_text_is_undecodable() -> None:
    content = with_chunks(encoded(noise()), text(b"zTXt", WORKFLOW), False)
    with pytest.raises(UndecodableError):
        decode(content[: content.index(b"IDAT") + 200])


def test_a_large_colour_profile_is_kept_beside_the_pixels() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + random.Random(0).randbytes(2 * MIB)
    chunks = chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))
    content = encoded(noise())
    image = open_image(with_chunks(content, chunks, False))
    assert image.info["icc_profile"] == profile
    assert decode(with_chunks(content, chunks, False)).tobytes() == decode(content).tobytes()


def test_a_bomb_for_a_colour_profile_is_ignored_or_refused_with_the_cure(memory_peak) -> None:
    chunks = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(300 * MIB)))
    content = with_chunks(encoded(noise()), chunks, False)
    memory_peak()
    assert decode(content).tobytes() == decode(encoded(noise())).tobytes()
    with pytest.raises(UndecodableError, match="the colour profile has more than 16 MiB: save the image"):
        decode(content, "srgb")
    assert memory_peak() < 80 * MIB


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_gray_is_white_and_no_other_gray_is(bits: int, index: int) -> None:
    top = (1 << bits) - 1
    levels = [0, top // 2, top]
    picture = decode(png([levels], bits, 0, chunk(b"tRNS", struct.pack(">H", levels[index]))))
    shown = [255 if level == levels[index] else round(255 * level / top) for level in levels]
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == pytest.approx(shown, abs=1)


@pytest.mark.parametrize(
    "key", [(257, 514, 771), (257, 514, 772), (256, 514, 771), (1, 2, 3), (0, 0, 0), (65_535,) * 3]
)
def test_a_transparent_colour_of_sixteen_bits_is_white_and_no_near_colour_is(key: tuple[int, int, int]) -> None:
    """Colours with the same high bytes, with the same low bytes, and black."""
    pixels = [(257, 514, 771), (257, 514, 772), (256, 514, 771), (1, 2, 3), (0, 0, 0), (65_535,) * 3]
    picture = decode(png([sum(pixels, ())], 16, 2, chunk(b"tRNS", struct.pack(">3H", *key)), channels=3))
    shown = [WHITE if pixel == key else tuple(sample >> 8 for sample in pixel) for pixel in pixels]
    assert [picture.getpixel((x, 0)) for x in range(6)] == shown


def test_a_transparent_gray_of_sixteen_bits_differs_from_its_neighbour() -> None:
    picture = decode(png([[1000, 1001, 999]], 16, 0, chunk(b"tRNS", struct.pack(">H", 1000))))
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == [255, 4, 4]


@pytest.mark.parametrize("behind", [False, True])
def test_a_transparent_colour_of_sixteen_bits_survives_much_text(behind: bool) -> None:
    chunks, much = chunk(b"tRNS", struct.pack(">3H", 257, 514, 771)), text(b"zTXt", WORKFLOW)
    content = png(
        [[257, 514, 771, 1, 2, 3]], 16, 2, chunks + (b"" if behind else much), much if behind else b"", channels=3
    )
    assert [decode(content).getpixel((x, 0)) for x in range(2)] == [WHITE, BLACK]


@pytest.mark.parametrize("colour_type, key", [(0, (0,)), (2, (0, 0, 0))])
def test_a_deep_transparent_image_is_turned_upright(colour_type: int, key: tuple[int, ...]) -> None:
    exif = Image.Exif()
    exif[274] = 6
    channels = len(key)
    before = chunk(b"eXIf", exif.tobytes()[6:]) + chunk(b"tRNS", struct.pack(f">{channels}H", *key))
    picture = decode(png([[0] * channels + [30_000] * channels], 16, colour_type, before, channels=channels))
    assert picture.size == (1, 2)
    assert (picture.getpixel((0, 0)), picture.getpixel((0, 1))) == (WHITE, (117,) * 3)
