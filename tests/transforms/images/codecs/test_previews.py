"""The full picture of a file is decoded, not a preview in it; else the message says so."""

from __future__ import annotations

import io
import struct
import time
from typing import Any

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image
from support.data.hostile import encoded

from moondream_beam.transforms.images.decode import UndecodableError, decode, open_image

RED, BLUE = (200, 30, 30), (30, 30, 200)
FULL = np.full((64, 96, 3), BLUE, np.uint8)
SMALL = np.full((8, 12, 3), RED, np.uint8)
HALF = np.full((32, 48, 3), RED, np.uint8)
SENSOR = np.full((64, 96), 2000, np.uint16)
REDUCED, PAGE, MASK = 1, 2, 4
# Pictures of a file: pixels, and options of tifffile.
Pages = list[tuple[np.ndarray, dict[str, Any]]]


def tiff_of(pages: Pages, big: bool = False, order: str = "<") -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as writer:
        for pixels, options in pages:
            writer.write(pixels, **{"photometric": "rgb", "metadata": None, **options})
    return file.getvalue()


WITH_PREVIEW: dict[str, Pages] = {
    "in SubIFDs": [(SMALL, {"subifds": 1, "subfiletype": REDUCED}), (FULL, {})],
    "in SubIFDs, not marked": [(SMALL, {"subifds": 1}), (FULL, {})],
    "in SubIFDs behind another preview": [
        (SMALL, {"subifds": 2, "subfiletype": REDUCED}),
        (HALF, {"subfiletype": REDUCED}),
        (FULL, {}),
    ],
    "in SubIFDs, compressed": [(SMALL, {"subifds": 1, "subfiletype": REDUCED}), (FULL, {"compression": "zlib"})],
    "in SubIFDs, 16 bits": [(SMALL, {"subifds": 1, "subfiletype": REDUCED}), (FULL.astype(np.uint16) * 257, {})],
    "on the next page": [(SMALL, {"subfiletype": REDUCED}), (FULL, {})],
    "last of a pyramid": [(SMALL, {"subfiletype": REDUCED}), (HALF, {"subfiletype": REDUCED}), (FULL, {})],
    "first of a pyramid": [(FULL, {}), (HALF, {"subfiletype": REDUCED}), (SMALL, {"subfiletype": REDUCED})],
    "first, smaller ones in SubIFDs": [(FULL, {"subifds": 1}), (HALF, {"subfiletype": REDUCED})],
    "first, a larger mask behind it": [
        (FULL, {}),
        (np.zeros((128, 192), bool), {"subfiletype": MASK, "photometric": "mask"}),
    ],
    "first, another page of another shape": [(FULL, {}), (np.zeros((300, 200, 3), np.uint8), {})],
    "first, a larger page marked as a page": [
        (FULL, {"subfiletype": PAGE}),
        (np.zeros((128, 192, 3), np.uint8), {"subfiletype": PAGE}),
    ],
    "the only one, marked as a preview": [(FULL, {"subfiletype": REDUCED})],
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("place", WITH_PREVIEW)
def test_the_full_picture_of_a_tiff_is_decoded(place: str, order: str) -> None:
    picture = decode(tiff_of(WITH_PREVIEW[place], order=order))
    assert (picture.size, picture.getpixel((50, 40))) == ((96, 64), BLUE)


@pytest.mark.parametrize("place", WITH_PREVIEW)
def test_the_full_picture_of_a_big_tiff_is_decoded(place: str) -> None:
    picture = decode(tiff_of(WITH_PREVIEW[place], big=True))
    assert (picture.size, picture.getpixel((50, 40))) == ((96, 64), BLUE)


def test_the_size_of_the_full_picture_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moondream_beam.transforms.images.decode.MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(UndecodableError, match="96 x 64 pixels are more"):
        open_image(tiff_of(WITH_PREVIEW["in SubIFDs"]))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "pages, message",
    [
        # The structure of DNG, NEF and ARW.
        (
            [(SMALL, {"subifds": 1, "subfiletype": REDUCED}), (SENSOR, {"photometric": "cfa"})],
            "camera raw file with a preview of 12 x 8 pixels, .* develop",
        ),
        # Not even a preview.
        ([(SENSOR, {"photometric": "cfa"})], "camera raw file, .* develop"),
        (
            [(SMALL, {"subifds": 1, "subfiletype": REDUCED}), (np.ones((64, 96)), {"photometric": "minisblack"})],
            r"preview of 12 x 8 pixels\. The full picture of 96 x 64 .*1 x 64 bits a pixel, floating point.*save",
        ),
        (
            [(SMALL, {}), (HALF, {}), (FULL, {})],
            "first page of this TIFF has 12 x 8 pixels, .* 48 x 32, .*: save the page to annotate as a file",
        ),
    ],
)
def test_a_tiff_whose_full_picture_is_not_decoded_is_refused(pages: Pages, message: str, big: bool) -> None:
    with pytest.raises(UndecodableError, match=message):
        open_image(tiff_of(pages, big))


def test_a_raw_file_of_canon_is_named() -> None:
    content = tiff_of([(SMALL, {})])
    # The mark stands between the header and the first directory.
    (first,) = struct.unpack_from("<I", content, 4)
    marked = content[:4] + struct.pack("<I", len(content) + 8) + b"CR\x02\0" + content[12:] + bytes(8) + content[first:]
    with pytest.raises(UndecodableError, match=r"camera raw file \(CR2\), .* develop"):
        open_image(marked)


def test_directories_that_form_a_loop_end() -> None:
    content = bytearray(tiff_of(WITH_PREVIEW["in SubIFDs"]))
    tag = content.index(struct.pack("<HHI", 330, 13, 1))
    # SubIFDs names the first directory again.
    content[tag + 8 : tag + 12] = content[4:8]
    assert decode(bytes(content)).size == (12, 8)


def test_many_directories_take_little_time() -> None:
    count, entries = 2000, b"".join(struct.pack("<HHII", 256 + index % 2, 4, 1, 8) for index in range(60))
    size = 2 + len(entries) + 4
    content = tiff_of([(SMALL, {})])
    start = len(content)
    chain = b"".join(
        struct.pack("<H", 60) + entries + struct.pack("<I", start + size * (index + 1)) for index in range(count)
    )
    (first,) = struct.unpack_from("<I", content, 4)
    (number,) = struct.unpack_from("<H", content, first)
    at = first + 2 + 12 * number
    content = content[:at] + struct.pack("<I", start) + content[at + 4 :] + chain
    started = time.process_time()
    assert open_image(content).size == (12, 8)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("primary", [0, 1])
def test_the_primary_picture_of_a_heif_is_decoded(primary: int) -> None:
    heif = pillow_heif.HeifFile()
    for pixels in (FULL, HALF)[:: 1 - 2 * primary]:
        heif.add_from_pillow(Image.fromarray(pixels))
    file = io.BytesIO()
    heif.save(file, primary_index=primary, quality=-1)
    assert decode(file.getvalue()).size == (96, 64)


def test_the_thumbnail_of_a_heif_is_not_decoded() -> None:
    file = io.BytesIO()
    heif = pillow_heif.from_pillow(Image.fromarray(FULL).resize((960, 640)))
    heif.info["thumbnails"] = [128]
    heif.save(file)
    assert decode(file.getvalue()).size == (960, 640)


def mpo(kind_of_first: int, kind_of_second: int) -> bytes:
    """An MPO of two pictures with these MP types."""
    content = encoded(Image.fromarray(SMALL), "MPO", save_all=True, append_images=[Image.fromarray(FULL)])
    # 16 bytes for each picture stand 50 bytes behind the head of the index. Their first 4 are the type.
    first = content.index(b"MPF\0") + 4 + 50
    assert struct.unpack_from("<L", content, first) == (0x030000,)
    kinds = struct.pack("<L", kind_of_first), struct.pack("<L", kind_of_second)
    return content[:first] + kinds[0] + content[first + 4 : first + 16] + kinds[1] + content[first + 20 :]


def test_the_primary_picture_of_an_mpo_is_decoded() -> None:
    assert decode(mpo(0x030000, 0x010002)).size == (12, 8)


def test_an_mpo_that_begins_with_a_preview_is_refused() -> None:
    with pytest.raises(UndecodableError, match="first picture of this MPO file is a preview of 12 x 8 pixels: save"):
        open_image(mpo(0x010002, 0x030000))


def test_the_largest_picture_of_an_icon_is_decoded() -> None:
    content = encoded(Image.fromarray(FULL).resize((64, 64)), "ICO", sizes=[(16, 16), (64, 64), (32, 32)])
    assert decode(content).size == (64, 64)
