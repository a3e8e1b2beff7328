"""The image formats that are read, with their file extensions. To add a format, add a line to ``FORMATS``.

Listing a folder, a bucket or an archive takes files with these extensions, decoding accepts these formats, and an
export names its files by them. A format that Pillow reads through a plug-in also needs its plug-in
registered in ``formats``.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from itertools import chain

from PIL import Image

# Pillow's name of a format -> its extensions in lower case, the one that exported files get first. Every format here
# is recognized by its first bytes. PostScript is left out: it is a program that an interpreter would run.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heif", ".heic"),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm", ".pbm"),
    "ICO": (".ico",),
}
EXTENSIONS = frozenset(chain.from_iterable(FORMATS.values()))


@cache
def formats() -> tuple[str, ...]:
    """Return the names in ``FORMATS`` that can be decoded here.

    A format is missing if Pillow was built without its codec; HEIF is missing without the extra ``heif``.
    """
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def extension_of(name: str) -> str:
    """Return the extension, without its dot, for files of the format that Pillow calls ``name``."""
    # Pillow's JPEG decoder calls a file of several frames MPO.
    return FORMATS["JPEG" if name == "MPO" else name][0][1:]
