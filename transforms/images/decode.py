"""Decode the bytes of an image file to upright RGB pixels.

The bytes are not trusted: width and height are checked against limits before pixels are allocated.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from ...models.tasks import Size
from ..core.records import IGNORE_PROFILES, ColourProfiles
from .codecs import gif, jpeg, jpeg2000, jpegxl, png
from .codecs.deep import DeepImage, open_deep
from .codecs.levels import gray_to_eight_bits
from .codecs.tiff import pictures as tiff
from .colour import to_srgb
from .formats import describe, formats
from .undecodable import UndecodableError, plain

# Limits of an image, compared with the size that its header states.
MAX_PIXELS = 178_956_970
MAX_SIDE = 65_500
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# Format -> what replaces an image that Pillow opened, before its size is checked. Formats not named here need nothing.
CHOOSE: dict[str | None, Callable[[Image.Image, bytes], Image.Image]] = {
    "JPEG2000": jpeg2000.choose_decoder,
    "MPO": jpeg.check_primary,
    "TIFF": tiff.open_full,
}
# Format -> what decodes its pixels in place of Pillow's ``load`` alone.
LOAD: dict[str | None, Callable[[ImageFile], Image.Image]] = {"GIF": gif.load, "PNG": png.load, "TIFF": tiff.load}
# EXIF orientation -> the transposition that turns the image upright. Orientation 1 and invalid numbers need none.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EXIF orientations whose transposition swaps width and height.
SIDEWAYS = (5, 6, 7, 8)
# A JPEG can be decoded at a half, a quarter or an eighth of its width and height, in a fraction of the time.
JPEG_DIVISORS = (8, 4, 2)
# Called with the upright full size and a reduced size of an image: whether the reduced one is enough for the model.
Enough = Callable[[Size, Size], bool]


def decode(content: bytes, colour_profiles: ColourProfiles = IGNORE_PROFILES) -> Image.Image:
    """Return the first frame of an image file in RGB, turned upright by its EXIF orientation.

    Transparency is laid over white, 16 bits are scaled to 8, CMYK is converted. With ``colour_profiles`` "srgb", pixels
    are converted from the ICC profile in the file to sRGB.

    Raises:
        UndecodableError: if the bytes are not an image, broken, cut off or too large.
    """
    return decode_pixels(open_image(content), colour_profiles)


def open_image(content: bytes) -> Image.Image:
    """Return an image of which only the header is read, and its size checked. Pixels are not decoded.

    Raises:
        UndecodableError: if the bytes are not an image, the image is too large, or its pixels are of a kind that can't
            be decoded with the right colours.
    """
    with _translate_errors():
        image = _open(content)
        choose = CHOOSE.get(image.format)
        if choose:
            image = choose(image, content)
        _check_size(image)
        return image


def decode_pixels(image: Image.Image, colour_profiles: ColourProfiles = IGNORE_PROFILES) -> Image.Image:
    """Return an image from ``open_image`` with its pixels decoded, upright and in RGB.

    Raises:
        UndecodableError: if the file is broken or cut off, or its pixels are floating point; with ``colour_profiles``
            "srgb" also if the colour profile can't be used.
        MemoryError: if the pixels do not fit into memory.
    """
    with _translate_errors(), image:
        # Pillow gives None for a profile that it can't read. Pixels that replace the image have no profile.
        profile = b"" if colour_profiles == IGNORE_PROFILES else image.info.get("icc_profile", b"")
        return _to_rgb(_turn_upright(_load(image)), profile)


def reduce_jpeg(image: Image.Image, is_enough: Enough) -> Size | None:
    """Set an opened JPEG to be decoded at the smallest size that ``is_enough`` accepts: 1/8, 1/4 or 1/2 a side.

    A divisor is tried only if it divides both sides, since a rounded size would shift the pixels.

    Returns:
        The full size of the image, upright, or None if the image is left as it is.

    Raises:
        UndecodableError: if the header is broken.
    """
    if not isinstance(image, JpegImageFile):
        return None
    with _translate_errors():
        size = image.size[::-1] if _orientation(image) in SIDEWAYS else image.size
        for divisor in JPEG_DIVISORS:
            reduced = (size[0] // divisor, size[1] // divisor)
            if not (size[0] % divisor or size[1] % divisor) and is_enough(size, reduced):
                image.draft(None, (image.width // divisor, image.height // divisor))
                return size
    return None


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise UndecodableError in place of every exception but MemoryError."""
    try:
        yield
    except (UndecodableError, MemoryError):
        raise
    # Pillow's plug-ins raise many types for broken files, SyntaxError and struct.error among them.
    except Exception as error:
        reason = plain(str(error)) or type(error).__name__
        if "truncated" in reason.lower():
            raise UndecodableError(f"the file is cut off: replace the file ({reason})") from error
        raise UndecodableError(f"the file can't be decoded: {reason}; replace the file") from error


def _open(content: bytes) -> Image.Image:
    """Return an image that Pillow opened, or one that imagecodecs decodes if Pillow does not know its kind."""
    try:
        return Image.open(io.BytesIO(content), formats=formats())
    except UnidentifiedImageError as error:
        header = jpeg.read_header(content) or jpegxl.read_header(content) or jpeg2000.read_header(content)
        if header:
            return open_deep(content, header)
        raise UndecodableError(tiff.describe(content) or describe(content, formats())) from error
    except ValueError:
        # Pillow refuses a PNG with much text.
        image = png.open_without_text(content)
        if image is None:
            raise
        return image


def _load(image: Image.Image) -> Image.Image:
    if isinstance(image, DeepImage):
        return image.decode()
    if isinstance(image, ImageFile) and image.format in LOAD:
        return LOAD[image.format](image)
    image.load()
    return image


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UndecodableError(
            f"{width} x {height} pixels are more than {MAX_PIXELS} in all or {MAX_SIDE} a side: shrink it"
        )
    if min(width, height) < 1:
        raise UndecodableError(f"the image is empty: {width} x {height} pixels; replace the file")


def _turn_upright(image: Image.Image) -> Image.Image:
    transposition = TRANSPOSITIONS.get(_orientation(image))
    return image if transposition is None else image.transpose(transposition)


def _orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation; 1, which is upright, if there is none or the EXIF data are broken."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    # Broken EXIF data do not make the pixels unusable.
    except Exception:
        return 1


def _to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an image in RGB over white. Its pixels are in the space of ``profile``; b"": sRGB; None: unknown."""
    if image.mode in SIXTEEN_BIT_MODES:
        image = gray_to_eight_bits(image)
    if image.mode == "F":
        raise UndecodableError("pixels of floating point have no maximum to scale by: save the image in 8 or 16 bits")
    if image.mode == "La":
        # Gray with premultiplied alpha: Pillow converts it to LA, but not to RGBA.
        image = image.convert("LA")
    if profile != b"":
        image = to_srgb(image, profile)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
