"""JPEG of more than 8 bits, or lossless JPEG of other than 8 bits, and the preview in an MPO file."""

from __future__ import annotations

import struct

from PIL import Image
from PIL.MpoImagePlugin import MpoImageFile

from ..undecodable import UndecodableError
from .deep import Header

START, END, SCAN, EXIF_SEGMENT, PROFILE_SEGMENT = 0xD8, b"\xff\xd9", 0xDA, 0xE1, 0xE2
PROFILE_NAME = b"ICC_PROFILE\0"
# Markers that have no content: restart markers, the start of the image, and TEM.
BARE = (*range(0xD0, 0xD9), 0x01)
# Start of frame -> coding. 0xC4, 0xC8 and 0xCC are other segments.
FRAMES = {marker: "lossless " if marker in (0xC3, 0xC7, 0xCB, 0xCF) else "" for marker in range(0xC0, 0xD0)}
for _other in (0xC4, 0xC8, 0xCC):
    del FRAMES[_other]


def read_header(content: bytes) -> Header | None:
    """Return the header of a JPEG that Pillow can't decode; None for 8 bits, and for what is no JPEG.

    Raises:
        UndecodableError: if the file is cut off, since the decoder would fill the rest with gray.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    at, exif, header = 2, b"", None
    parts: list[bytes] = []
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in BARE or marker == 0xFF:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        segment = content[at + 4 : at + 2 + length]
        if marker == EXIF_SEGMENT and segment.startswith(b"Exif\0\0"):
            exif = segment
        elif marker == PROFILE_SEGMENT and segment.startswith(PROFILE_NAME):
            parts.append(segment[len(PROFILE_NAME) :])
        elif marker in FRAMES and len(segment) >= 6:
            header = _frame(FRAMES[marker], segment)
        elif marker == SCAN:
            break
        at += 2 + length
    if header and content.rfind(END) < at:
        raise UndecodableError(f"the {header.kind} is cut off: replace the file")
    return header._replace(exif=exif, profile=_join(parts)) if header else None


def _join(parts: list[bytes]) -> bytes | None:
    """Return a profile from its parts, which begin with their number and the number of all; None if one is missing."""
    parts.sort()
    numbers = [tuple(part[:2]) for part in parts]
    if numbers != [(number, len(parts)) for number in range(1, len(parts) + 1)]:
        return None
    return b"".join(part[2:] for part in parts)


def _frame(coding: str, segment: bytes) -> Header | None:
    bits, height, width, channels = struct.unpack_from(">BHHB", segment)
    if bits == 8:
        return None
    problem = "" if channels in (1, 3) else f"has {channels} channels"
    return Header("JPEG", f"{coding}JPEG of {bits} bits", (width, height), bits, problem=problem)


def check_primary(image: Image.Image, content: bytes) -> Image.Image:
    """Return an MPO image.

    Raises:
        UndecodableError: if the first picture of the file is a preview of another one.
    """
    if isinstance(image, MpoImageFile):
        kinds = [entry["Attribute"]["MPType"] for entry in (image.mpinfo or {}).get(0xB002, ())]
        if kinds and kinds[0].startswith("Large Thumbnail") and len(kinds) > 1:
            raise UndecodableError(
                f"the first picture of this MPO file is a preview of {image.width} x {image.height} pixels: "
                "save the full picture as a file of its own"
            )
    return image
