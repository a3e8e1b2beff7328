"""The picture files of an export: unchanged if readers know the file format, else as JPEG or PNG."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps

from ...images.decode import decode_pixels, open_image
from ...images.formats import extension_of

# Pillow's names of the formats that both `datasets` and `webdataset` decode. They choose by the extension of a file.
READABLE = frozenset({"JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO"})
JPEG_QUALITY = 95


class PictureFile(NamedTuple):
    """The content of a picture's file, and the extension of its format without a dot.

    ``converted`` is true if the format was changed. ``turned`` is true if the file has an EXIF orientation, so that
    its pixels are not upright.
    """

    content: bytes
    extension: str
    converted: bool = False
    turned: bool = False


def readable_file(content: bytes) -> PictureFile:
    """Return the file of a picture, in another format if its own is not in ``READABLE``.

    A converted picture is upright: a PNG if it has transparency, else a JPEG. Only the first frame is kept.

    Raises:
        UndecodableError: if the content can't be decoded here, for example because an extra is missing.
    """
    image = open_image(content)
    if image.format in READABLE:
        return PictureFile(content, extension_of(image.format or ""), turned=_is_turned(image))
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    file = io.BytesIO()
    if image.has_transparency_data:
        image.load()
        ImageOps.exif_transpose(image).convert("RGBA").save(file, "PNG", icc_profile=profile)
        return PictureFile(file.getvalue(), "png", converted=True)
    decode_pixels(image).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0, icc_profile=profile)
    return PictureFile(file.getvalue(), "jpg", converted=True)


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    # Broken EXIF data do not make the pixels unusable.
    except Exception:
        return False
