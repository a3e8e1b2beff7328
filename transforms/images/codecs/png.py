"""PNG images with much text, and with a transparent colour in other than 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from ..colour import MAX_PROFILE_BYTES
from .levels import gray_to_eight_bits

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
# Texts that may hold the orientation, which Pillow reads there.
ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")
# Gray of less than 8 bits: Pillow scales the pixels by this factor, but not the transparent colour.
GRAY_FACTORS = {"L;2": 85, "L;4": 17}


def open_without_text(content: bytes) -> ImageFile | None:
    """Return a PNG that Pillow refuses to open for its many texts; None if it has no text, or is no PNG.

    Texts that may hold the orientation are kept. A colour profile of more than 1 MiB, which is Pillow's limit, is read
    too, up to one byte more than ``MAX_PROFILE_BYTES``: ``to_srgb`` refuses such a profile.
    """
    if not content.startswith(SIGNATURE):
        return None
    kept, profile = [], b""
    for kind, start, end in _chunks(content):
        body = content[start + 8 : end - 4]
        if kind == b"iCCP":
            profile = body
        elif kind not in TEXT_CHUNKS or body.startswith(ORIENTATION_TEXTS):
            kept.append(content[start:end])
    without = SIGNATURE + b"".join(kept)
    if len(without) == len(content):
        return None
    image = Image.open(io.BytesIO(without), formats=("PNG",))
    if profile:
        image.info["icc_profile"] = _decompress(profile)
    return image


def _decompress(profile: bytes) -> bytes | None:
    """Return the content of an iCCP chunk, or None if it is broken."""
    stream = zlib.decompressobj()
    try:
        # The name of the profile ends with a zero, and one byte states the compression.
        return stream.decompress(profile[profile.find(b"\0") + 2 :], MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None


def load(image: ImageFile) -> Image.Image:
    """Return an opened PNG with its pixels decoded, and the pixels of its transparent colour transparent."""
    raw_mode = image.tile[0].args if image.tile else None
    key = image.info.get("transparency")
    content = _content(image)
    image = _load(image, content)
    if key is None:
        return image
    if raw_mode in GRAY_FACTORS:
        image.info["transparency"] = key * GRAY_FACTORS[raw_mode]
    elif raw_mode == "I;16B":
        return _with_alpha(gray_to_eight_bits(image), np.asarray(image) != key)
    elif raw_mode == "RGB;16B":
        # Pillow decodes the high byte of each channel. The low bytes decide between colours that differ little.
        low = Image.open(io.BytesIO(content), formats=("PNG",))
        # Read as little-endian, the second byte of each channel is the high one.
        low_bytes = np.asarray(_load(low, content, "RGB;16L"))
        differs = (np.asarray(image) != np.array(key) >> 8) | (low_bytes != np.array(key) & 0xFF)
        return _with_alpha(image, differs.any(axis=2))
    return image


def _content(image: ImageFile) -> bytes:
    if not isinstance(image.fp, io.BytesIO):
        raise ValueError("the image was not opened by open_image: open it from its bytes")
    # The bytes are shared, not copied.
    return image.fp.getvalue()


def _load(image: ImageFile, content: bytes, raw_mode: str | None = None) -> ImageFile:
    try:
        _decode(image, raw_mode)
    except ValueError:
        # Pillow reads the texts behind the pixels now, and refuses many of them.
        without = open_without_text(content)
        if without is None:
            raise
        image = without
        _decode(image, raw_mode)
    return image


def _decode(image: ImageFile, raw_mode: str | None) -> None:
    if raw_mode:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()


def _with_alpha(image: Image.Image, is_opaque: NDArray[np.bool_]) -> Image.Image:
    image.putalpha(Image.fromarray(is_opaque.astype(np.uint8) * 255))
    image.info.pop("transparency", None)
    return image


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start and the end of each chunk that is whole."""
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if start + 12 + size > len(content):
            # A chunk that is cut off is kept, so that Pillow finds it.
            yield kind, start, len(content)
            return
        yield kind, start, start + 12 + size
        start += 12 + size
