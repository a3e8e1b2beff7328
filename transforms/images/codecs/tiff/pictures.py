"""TIFF: the full picture of a file with previews, and kinds of pixels that Pillow decodes wrongly or not at all."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile, _Tile
from PIL.TiffImagePlugin import PREFIXES, TiffImageFile

from ...undecodable import UndecodableError
from ..levels import gray_to_eight_bits
from .directories import (
    BITS,
    COMPRESSION,
    HEIGHT,
    PHOTOMETRIC,
    PLANAR,
    SAMPLE_FORMAT,
    SUB_IFDS,
    WANTED,
    WIDTH,
    Directory,
    is_big_tiff,
    moved_to,
    read_directories,
)

WHITE_IS_ZERO, YCBCR = 0, 6
UNCOMPRESSED, SEPARATE_PLANES, SIGNED = 1, 2, 2
# Canon's raw files are TIFFs with these bytes behind the offset of the first directory, which is that of a preview.
CANON_RAW = b"CR\x02\0"
SAVE_AGAIN = "save the picture as PNG, or as TIFF of 8 or 16 bits in gray or RGB"
DEVELOP = "develop the raw file to JPEG, PNG or TIFF"


def open_full(image: Image.Image, content: bytes) -> Image.Image:
    """Return the full picture of a TIFF that Pillow opened. Pixels are not decoded.

    Raises:
        UndecodableError: if the full picture can't be decoded, can't be told from a preview, or is of a kind that has
            no known black and white.
    """
    if not isinstance(image, TiffImageFile):
        return image
    if content[8:12] == CANON_RAW:
        raise UndecodableError(f"this is a camera raw file (CR2), not a picture that can be read: {DEVELOP}")
    # Pillow does not read the type that SubIFDs has in BigTIFF.
    if image.is_animated or SUB_IFDS in image.tag_v2 or is_big_tiff(content):
        found = read_directories(content)
        full = choose_full(found) if found else None
        if full and full is not found[0]:
            image = _open_at(content, full, found[0])
    _check_kind(image)
    return image


def describe(content: bytes) -> str:
    """Return what a TIFF file that Pillow can't open holds, and what to do; an empty text if it has no directory."""
    is_tiff = content.startswith(tuple(PREFIXES))
    found = [directory for directory in read_directories(content) if min(directory.size) > 0] if is_tiff else []
    if not found:
        return ""
    if any(directory.is_raw for directory in found):
        return f"this is a camera raw file, not a picture that can be read: {DEVELOP}"
    if content[:2] == b"MM" and is_big_tiff(content):
        return f"this TIFF is a big-endian BigTIFF, which can't be decoded: {SAVE_AGAIN}"
    return _refusal(choose_full(found))


def choose_full(found: list[Directory]) -> Directory:
    """Return the directory of the full picture. ``found`` is not empty.

    That is the first picture, unless it is a smaller copy of another one.

    Raises:
        UndecodableError: if a directory holds the values of a sensor, or if a later page may be a larger copy of the
            first one.
    """
    first, *others = (directory for directory in found if not directory.is_mask or directory is found[0])
    if any(directory.is_raw for directory in found):
        raise UndecodableError(
            f"this is a camera raw file with a preview of {_sides(first)} pixels, not a picture that can be read: "
            f"{DEVELOP}"
        )
    subs = [other for other in others if other.is_sub and (first.is_reduced or _is_larger(other, first))]
    wholes = [other for other in subs if not other.is_reduced] or subs
    if wholes:
        return max([first, *wholes] if not first.is_reduced else wholes, key=_pixels)
    pages = [other for other in others if not other.is_sub]
    if first.is_reduced:
        whole = next((page for page in pages if not page.is_reduced), None)
        return whole or max([first, *pages], key=_pixels)
    for page in pages:
        if not page.is_page and _is_larger(page, first, 1.9) and _has_shape_of(page, first):
            raise UndecodableError(
                f"the first page of this TIFF has {_sides(first)} pixels, and a later page of the same shape has "
                f"{_sides(page)}, so that the first may be a preview: save the page to annotate as a file of its own"
            )
    return first


def load(image: ImageFile) -> Image.Image:
    """Return an opened TIFF with its pixels decoded. Gray of more than 8 bits is returned in 8.

    Raises:
        UndecodableError: if Pillow has no decoder for pixels of this kind.
    """
    if not isinstance(image, TiffImageFile):
        image.load()
        return image
    try:
        image.load()
    except ValueError as error:
        if "raw mode" in str(error):
            raise UndecodableError(_refusal(_directory(image))) from error
        raise
    if not image.mode.startswith("I;16"):
        return image
    directory = _directory(image)
    top = (1 << directory.first(BITS, 16)) - 1
    black, white = (top, 0) if directory.first(PHOTOMETRIC) == WHITE_IS_ZERO else (0, top)
    return gray_to_eight_bits(image, black, white)


def _open_at(content: bytes, full: Directory, first: Directory) -> TiffImageFile:
    try:
        image = Image.open(io.BytesIO(moved_to(content, full)), formats=("TIFF",))
    except UnidentifiedImageError as error:
        raise UndecodableError(
            f"the first picture of this TIFF is a preview of {_sides(first)} pixels. "
            f"The full picture of {_sides(full)} pixels is of a kind that can't be decoded ({full}): {SAVE_AGAIN}"
        ) from error
    assert isinstance(image, TiffImageFile)
    return image


def _check_kind(image: TiffImageFile) -> None:
    """Set Pillow's decoder for 16 bits in separate planes, and refuse kinds that it decodes wrongly.

    Raises:
        UndecodableError: if the pixels are of a kind that would come out wrong.
    """
    directory = _directory(image)
    bits, is_planar = directory.first(BITS, 1), directory.first(PLANAR, 1) == SEPARATE_PLANES
    is_raw = directory.first(COMPRESSION, 1) == UNCOMPRESSED
    if image.mode == "I" or SIGNED in directory.tags.get(SAMPLE_FORMAT, ()):
        # Signed numbers, and those of 32 bits, are measurements. The file does not state which value is white.
        raise UndecodableError(_refusal(directory))
    if is_planar and image.mode == "LA" or is_raw and directory.first(PHOTOMETRIC) == YCBCR and image.mode == "RGB":
        raise UndecodableError(_refusal(directory))
    if is_planar and is_raw and bits == 16:
        # Pillow's own decoder takes the planes for 8 bits. libtiff, which decodes compressed pixels, does not.
        args = (f"{image.mode};16N", "raw", False, image.tag_v2.offset)
        image.tile = [_Tile("libtiff", (0, 0, directory.first(WIDTH), directory.first(HEIGHT)), 0, args)]
        image.use_load_libtiff = True


def _directory(image: TiffImageFile) -> Directory:
    """Return the directory of an image that Pillow opened."""
    tags = {tag: image.tag_v2[tag] for tag in WANTED if tag in image.tag_v2}
    return Directory(0, False, {tag: value if isinstance(value, tuple) else (value,) for tag, value in tags.items()})


def _refusal(directory: Directory) -> str:
    return f"this TIFF holds pixels of a kind that can't be decoded ({directory}): {SAVE_AGAIN}"


def _sides(directory: Directory) -> str:
    return "{} x {}".format(*directory.size)


def _pixels(directory: Directory) -> int:
    return directory.size[0] * directory.size[1]


def _is_larger(other: Directory, first: Directory, factor: float = 1.0) -> bool:
    return all(side > factor * of_first for side, of_first in zip(other.size, first.size, strict=True))


def _has_shape_of(other: Directory, first: Directory) -> bool:
    """Return whether the ratio of the sides is the same, if the sides of ``first`` are rounded to whole pixels."""
    (width, height), (small_width, small_height) = other.size, first.size
    return abs(width * small_height - height * small_width) <= max(width, height)
