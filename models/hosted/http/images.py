"""The picture of a request in the form that an API accepts: JPEG of a limited size, or a public URL."""

from __future__ import annotations

import base64
import math
import os
import sys
import tempfile
from collections.abc import Callable
from typing import IO

from PIL import Image

from ...tasks import Size
from ...web.urls import is_public_url

# Moondream uses at most 1,512 pixels a side. A larger picture would be sent in vain.
MAX_SIDE = 1536
# A picture that was decoded at reduced size must have at least this many pixels a side for each pixel that is sent.
MIN_OVERSAMPLING = 2
JPEG_QUALITY = 90
MAX_URL_CHARS = 2048
JPEG_DATA_URI = "data:image/jpeg;base64,"


def encode(picture: Image.Image, shrink: Callable[[Image.Image], Image.Image] | None = None) -> bytes:
    """Return an upright RGB picture as JPEG.

    Args:
        shrink: returns the picture in the size to send; None for at most ``MAX_SIDE`` pixels a side.

    Raises:
        ValueError: if the picture has no pixels or is not RGB.
    """
    if picture.mode != "RGB":
        raise ValueError(f"the picture has mode {picture.mode}: convert it to RGB first")
    if 0 in picture.size:
        raise ValueError("the picture has no pixels: remove it from the input")
    # Pillow releases the GIL while it writes to a file descriptor, and holds the GIL while it writes into a BytesIO.
    with _file_in_memory() as file:
        (shrink or shrink_sides)(picture).save(file, "JPEG", quality=JPEG_QUALITY)
        file.seek(0)
        return file.read()


def shrink_sides(picture: Image.Image) -> Image.Image:
    """Return the picture scaled down to ``MAX_SIDE`` pixels on its longer side; the same object if it is smaller."""
    return _scaled(picture, MAX_SIDE / max(1, *picture.size))


def shrink_area(picture: Image.Image, max_pixels: int) -> Image.Image:
    """Return the picture scaled down to about ``max_pixels`` pixels in all; the same object if it has no more."""
    return _scaled(picture, math.sqrt(max_pixels / max(1, picture.width * picture.height)))


def oversamples_area(size: Size, max_pixels: int) -> bool:
    """Return whether a size has at least ``MIN_OVERSAMPLING`` times the pixels a side of what ``shrink_area`` gives."""
    return size[0] * size[1] >= MIN_OVERSAMPLING**2 * max_pixels


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _file_in_memory() -> IO[bytes]:
    """Return an empty file without a name: in memory on Linux, in the folder for temporary files on other systems."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("jpeg"), "w+b")
    return tempfile.TemporaryFile()


def data_uri(jpeg: bytes) -> str:
    """Return JPEG bytes as a ``data:image/jpeg;base64,`` URI."""
    return JPEG_DATA_URI + base64.b64encode(jpeg).decode()


def public_url(uri: str | None) -> str | None:
    """Return ``uri`` if the API may fetch it: at most ``MAX_URL_CHARS`` long and public by ``is_public_url``.

    Returns:
        None for all other URIs. The picture must then be sent as bytes.
    """
    return uri if uri and len(uri) <= MAX_URL_CHARS and is_public_url(uri) else None
