"""Images that imagecodecs decodes in place of Pillow: deep JPEG and JPEG 2000, lossless JPEG, and JPEG XL.

The size in the header is known before anything is decoded. The package imagecodecs comes with the extra ``codecs``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray
from PIL import Image

from ....models.tasks import Size
from ..undecodable import UndecodableError
from .boxes import hide_profile
from .levels import from_array

MAX_BITS = 16


class Header(NamedTuple):
    """What the header of an image states. ``kind`` names the image in messages; ``exif`` may be empty.

    ``offset`` is added to each pixel, since the pixels of some images are signed. ``problem`` says why the image can't
    be decoded; it is empty if the image can be decoded. ``profile`` is the ICC profile: empty for sRGB, and None if the
    profile can't be read.
    """

    format: str
    kind: str
    size: Size
    bits: int
    offset: int = 0
    exif: bytes = b""
    problem: str = ""
    profile: bytes | None = b""


class DeepImage(Image.Image):
    """An image of which only the header is read. ``decode`` returns its pixels."""

    def __init__(self, content: bytes, header: Header) -> None:
        super().__init__()
        self._size = header.size
        self.format = header.format
        if header.exif:
            self.info["exif"] = header.exif
        if header.profile != b"":
            self.info["icc_profile"] = header.profile
        self._content, self._header = content, header

    def decode(self) -> Image.Image:
        """Return the pixels in 8 bits, in mode L, LA, RGB or RGBA.

        Raises:
            UndecodableError: if the pixels have another size than the header states.
            RuntimeError: if the file is broken.
        """
        pixels = _decoders()[self.format or ""](self._content)
        height, width = pixels.shape[:2]
        # JPEG XL is turned upright by its decoder.
        if {(width, height)} - {self.size, self.size[::-1]} or pixels.ndim > 3:
            raise UndecodableError(f"the {self._header.kind} is broken: its header states another size; replace it")
        if self._header.offset:
            pixels = pixels.astype("int32") + self._header.offset
        image = from_array(pixels, self._header.bits)
        image.info.update(self.info)
        return image


def open_deep(content: bytes, header: Header) -> DeepImage:
    """Return an image of which only the header is read.

    Raises:
        UndecodableError: if images of this kind can't be decoded, or the extra ``codecs`` is missing.
    """
    if not header.problem and header.bits > MAX_BITS:
        header = header._replace(problem=f"has {header.bits} bits")
    if header.problem:
        raise UndecodableError(
            f"this {header.kind} {header.problem}, which can't be decoded: save it as PNG of 8 or 16 bits"
        )
    try:
        _decoders()
    except ImportError as error:
        raise UndecodableError(
            f"this {header.kind} needs the extra codecs: pip install 'moondream-beam[codecs]'"
        ) from error
    return DeepImage(content, header)


def _decoders() -> dict[str, Callable[[bytes], NDArray[Any]]]:
    import imagecodecs

    # One thread each: images are decoded in several threads already.
    return {
        "JPEG": imagecodecs.jpeg8_decode,
        "JPEG2000": lambda content: imagecodecs.jpeg2k_decode(hide_profile(content), numthreads=1),
        "JPEGXL": lambda content: imagecodecs.jpegxl_decode(content, index=0, numthreads=1),
    }
