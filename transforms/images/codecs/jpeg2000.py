"""JPEG 2000 of other than 8 bits. Pillow decodes such files with wrong colours, except gray of 10 to 16 bits."""

from __future__ import annotations

import struct

from PIL import Image

from .boxes import boxes
from .deep import Header, open_deep

CODESTREAM = b"\xff\x4f\xff\x51"
# Colour spaces whose channels are gray, gray and alpha, RGB, or RGB and alpha: sRGB and gray.
COLOUR_SPACES = (16, 17)
METHOD_ENUMERATED, METHODS_OF_ICC = 1, (b"\2", b"\3")


def choose_decoder(image: Image.Image, content: bytes) -> Image.Image:
    """Return an image that Pillow opened if Pillow decodes it rightly, else one that imagecodecs decodes.

    Raises:
        UndecodableError: if images of this kind can't be decoded, or the extra ``codecs`` is missing.
    """
    header = read_header(content)
    if header:
        return open_deep(content, header)
    # Pillow does not read the profile.
    if profile := _profile(content):
        image.info["icc_profile"] = profile
    return image


def read_header(content: bytes) -> Header | None:
    """Return the header of a JPEG 2000 image that Pillow decodes wrongly or can't decode, else None.

    Raises:
        struct.error: if the header is cut off.
    """
    stream, problem = content[:4096], ""
    if not content.startswith(CODESTREAM):
        stream, problem = _unwrap(content)
    if not stream.startswith(CODESTREAM):
        return None
    _, _, right, bottom, left, top, *_, channels = struct.unpack_from(">HHIIIIIIIIH", stream, 4)
    depths = stream[42 : 42 + 3 * channels : 3]
    # The highest bit of a depth is the sign; the others are the number of bits less 1.
    bits = {(depth & 0x7F) + 1 for depth in depths}
    is_deep_gray = len(depths) == 1 and not depths[0] & 0x80 and 10 <= min(bits) <= 16
    if not depths or channels <= 4 and (bits == {8} or is_deep_gray):
        return None
    if len(set(depths)) > 1:
        problem = "has channels of different depths"
    elif channels > 4:
        problem = f"has {channels} channels"
    elif set(stream[43 : 42 + 3 * channels : 3] + stream[44 : 42 + 3 * channels : 3]) != {1}:
        problem = "has channels of different sizes"
    most = max(bits)
    offset = 1 << (most - 1) if depths[0] & 0x80 else 0
    kind = f"JPEG 2000 of {channels} x {most} bits"
    size = (right - left, bottom - top)
    return Header("JPEG2000", kind, size, most, offset, problem=problem, profile=_profile(content))


def _unwrap(content: bytes) -> tuple[bytes, str]:
    """Return the start of the codestream in a JP2 file, and the problem with its colours, or an empty text."""
    problem = ""
    for kind, body in boxes(content):
        if kind == b"jp2h":
            problem = _colour_problem(body)
        elif kind == b"jp2c":
            return body, problem
    return b"", problem


def _profile(content: bytes) -> bytes:
    """Return the ICC profile in a JP2 file; empty if there is none, or if the first colours are enumerated."""
    for _, header in (box for box in boxes(content) if box[0] == b"jp2h"):
        for kind, body in boxes(header):
            if kind == b"colr":
                return body[3:] if body[:1] in METHODS_OF_ICC else b""
    return b""


def _colour_problem(header: bytes) -> str:
    for kind, body in boxes(header):
        if kind == b"pclr":
            return "has a palette"
        if kind == b"colr" and body[0] == METHOD_ENUMERATED:
            (space,) = struct.unpack_from(">I", body, 3)
            if space not in COLOUR_SPACES:
                return f"has colours of a kind other than gray and RGB (EnumCS {space})"
    return ""
