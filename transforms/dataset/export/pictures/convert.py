"""The picture files of an export: unchanged if readers know the file format, else as JPEG or PNG."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps

from ....images.decode import decode_pixels, open_image
from ....images.formats import extension_of

# Pillow's names of the formats that both `datasets` and `webdataset` decode. They choose by the extension of a file.
READABLE = frozenset({"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO"})
# Pillow's options for the formats that pictures are encoded in.
ENCODED = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "WEBP": {"quality": 95}}


class Wanted(NamedTuple):
    """What an export asks of each picture file.

    Attributes:
        longest: the longer side has at most so many pixels. None: pictures keep their size.
        format: a name in ``ENCODED``. None: pictures keep their format if it is in ``READABLE``.
        upright: a picture with an EXIF orientation is encoded again, with its pixels turned.
    """

    longest: int | None = None
    format: str | None = None
    upright: bool = False


UNCHANGED = Wanted()


class PictureFile(NamedTuple):
    """The content of a picture's file, and the extension of its format without a dot.

    ``converted`` is true if the format was changed. ``turned`` is true if the file has an EXIF orientation, so that
    its pixels are not upright. ``made_upright`` is true if the pixels were turned. ``size`` is the new width and height
    of a picture that was made smaller, upright; else None.
    """

    content: bytes
    extension: str
    converted: bool = False
    turned: bool = False
    made_upright: bool = False
    size: tuple[int, int] | None = None


def readable_file(content: bytes, wanted: Wanted = UNCHANGED) -> PictureFile:
    """Return the file of a picture, encoded again only if its format is not in ``READABLE`` or ``wanted`` asks for it.

    An encoded picture is upright. If ``wanted`` names no format, the picture keeps JPEG, PNG or WebP. Other formats
    become PNG if the picture has transparency, else JPEG. Only the first frame is kept.

    Raises:
        UndecodableError: if the content can't be decoded here, for example because an extra is missing.
    """
    image = open_image(content)
    turned, is_large = _is_turned(image), wanted.longest is not None and max(image.size) > wanted.longest
    name = "JPEG" if image.format == "MPO" else image.format or ""
    is_known = image.format in READABLE and wanted.format in (None, name)
    if is_known and not is_large and not (turned and wanted.upright):
        return PictureFile(content, extension_of(name), turned=turned)
    encoded, target, size = _encode(content, wanted.format or (name if name in ENCODED else ""), wanted.longest)
    return PictureFile(
        encoded, extension_of(target), converted=target != name, made_upright=turned, size=size if is_large else None
    )


def _encode(content: bytes, target: str, longest: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """Return the file of an upright picture, the name of its format, and its width and height."""
    # Opened anew: to find the orientation of a PNG, Pillow has decoded the pixels, and they cannot be decoded again.
    image = open_image(content)
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    if image.has_transparency_data and target != "JPEG":
        image.load()
        pixels, target = ImageOps.exif_transpose(image).convert("RGBA"), target or "PNG"
    else:
        pixels, target = decode_pixels(image), target or "JPEG"
    if longest is not None:
        pixels.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    pixels.save(file, target, icc_profile=profile, **ENCODED[target])
    return file.getvalue(), target, pixels.size


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    # Broken EXIF data do not make the pixels unusable.
    except Exception:
        return False
