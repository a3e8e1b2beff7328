"""Image formats: the ones that are decoded, and the file extensions that they have."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from PIL import Image

# Images of the web and of cameras that can be told by their first bytes. Not PostScript, which is a program.
WANTED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO")


@cache
def formats() -> tuple[str, ...]:
    """The formats that can be decoded here: a Pillow built without a codec does not know its name, and HEIF, which the
    cameras of telephones write, needs the extra ``heif``."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    return tuple(name for name in WANTED_FORMATS if name in Image.OPEN)


JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")


OTHER_EXTENSIONS = (".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".ico")


HEIF_EXTENSIONS = (".avif", ".heic", ".heif")


EXTENSIONS = frozenset((*JPEG_EXTENSIONS, *OTHER_EXTENSIONS, *HEIF_EXTENSIONS))
