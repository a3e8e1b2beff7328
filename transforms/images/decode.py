"""Bytes to an upright RGB picture. The bytes are not trusted: sizes are checked before pixels are made."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from ...models.tasks import Size
from .formats import formats

# Pixels and pixels a side, read from the header before anything is decoded.
MAX_PIXELS = 178_956_970
MAX_SIDE = 65_500
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
HEIF_STARTS = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypheim", b"ftypheis", b"ftypmif1", b"ftypmsf1")
MARKUP_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<svg")
# What undoes each EXIF orientation; 1, and any number that is none, is upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those that make a column of a row.
TURNED = (5, 6, 7, 8)


# The sides of a JPEG can be decoded at one of these parts of their length, in a fraction of the time.
REDUCTIONS = (8, 4, 2)
# Whether a picture of one size may come in another: see Annotator.
Enough = Callable[[Size, Size], bool]


class UndecodableError(ValueError):
    """These bytes are no picture, or one beyond the limits."""


def decode(content: bytes) -> Image.Image:
    """The first frame, turned upright by EXIF, in RGB: transparency over white, 16 bits to 8, CMYK to RGB.

    Raises:
        UndecodableError: the bytes are no picture, broken, cut off or too large.
    """
    return make_pixels(open_picture(content))


def open_picture(content: bytes) -> Image.Image:
    """A picture as its header tells it, within the limits. Its pixels are not made yet.

    Raises:
        UndecodableError: the bytes are no picture, or one too large.
    """
    with _telling_what_is_wrong():
        try:
            image = Image.open(io.BytesIO(content), formats=formats())
        except UnidentifiedImageError as error:
            raise UndecodableError(_describe(content)) from error
        _check_size(image)
        return image


def make_pixels(image: Image.Image) -> Image.Image:
    """The pixels of an opened picture, upright and in RGB.

    Raises:
        UndecodableError: it is broken or cut off.
        MemoryError: there is no room for them.
    """
    with _telling_what_is_wrong(), image:
        image.load()
        return _to_rgb(_turn_upright(image))


def reduce(image: Image.Image, is_enough: Enough) -> Size | None:
    """Have an opened JPEG decoded in fewer pixels, where those are enough; the size that it would have had, upright.

    Only where they divide its sides: a part of a pixel would shift the others.
    """
    if not isinstance(image, JpegImageFile):
        return None
    with _telling_what_is_wrong():
        size = image.size[::-1] if _orientation(image) in TURNED else image.size
        for part in REDUCTIONS:
            if not (size[0] % part or size[1] % part) and is_enough(size, (size[0] // part, size[1] // part)):
                image.draft(None, (image.width // part, image.height // part))
                return size
    return None


@contextmanager
def _telling_what_is_wrong() -> Iterator[None]:
    try:
        yield
    except (UndecodableError, MemoryError):
        raise
    # Pillow's plug-ins raise many kinds for broken files, SyntaxError and struct.error among them.
    except Exception as error:
        raise UndecodableError(f"{type(error).__name__}: {error}") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UndecodableError(f"{width} x {height} pixels are more than {MAX_PIXELS} in all or {MAX_SIDE} a side")
    if min(width, height) < 1:
        raise UndecodableError(f"{width} x {height} pixels are no picture")


def _turn_upright(image: Image.Image) -> Image.Image:
    turn = TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    # EXIF that can't be read turns nothing; the pixels are as good as without it.
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT:
        # Pillow would clip 16 bits to 8, not scale them.
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")
    if image.mode == "F":
        raise UndecodableError("pixels of floating point have no brightest value to scale by")
    if image.mode == "La":
        # Gray with alpha already multiplied in: Pillow knows the way to plain alpha, and none to RGBA.
        image = image.convert("LA")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _describe(content: bytes) -> str:
    if content[:512].lstrip().lower().startswith(MARKUP_STARTS):
        return "this is a page of HTML or XML, not a picture"
    if content[4:12] in HEIF_STARTS:
        installed = "HEIF" in formats()
        return "a broken HEIF" if installed else "a HEIF: install the extra heif, as in moondream-beam[heif]"
    return f"no known image format; it starts with {content[:8]!r}"
