"""The header of JPEG XL. Its fields and their order are those of ISO/IEC 18181-1, annexes A.2 to A.5."""

from __future__ import annotations

import struct

from ....models.tasks import Size
from .boxes import boxes
from .deep import Header

CODESTREAM, CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL "
# Ratios of width to height that need no width in the header.
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
# How a number is written: one of four ways, each a number of bits and what is added to them.
Ways = tuple[tuple[int, int], ...]
SIDE: Ways = ((9, 1), (13, 1), (18, 1), (30, 1))
DEPTH: Ways = ((0, 8), (0, 10), (0, 12), (6, 1))
FLOAT_DEPTH: Ways = ((0, 32), (0, 16), (0, 24), (6, 1))
COUNT: Ways = ((0, 0), (0, 1), (4, 2), (12, 1))
KIND: Ways = ((0, 0), (0, 1), (4, 2), (6, 18))
SHIFT: Ways = ((0, 0), (0, 3), (0, 4), (3, 1))
NAME: Ways = ((0, 0), (4, 0), (5, 16), (10, 48))
PREVIEW_EIGHTHS: Ways = ((0, 16), (0, 32), (5, 1), (9, 33))
PREVIEW: Ways = ((6, 1), (8, 65), (10, 321), (12, 1345))
ANIMATION: tuple[Ways, ...] = (
    ((0, 100), (0, 1000), (10, 1), (30, 1)),
    ((0, 1), (0, 1001), (8, 1), (10, 1)),
    ((0, 0), (3, 0), (16, 0), (32, 0)),
)
ALPHA = 0
RGB, GRAY, WHITE_D65, PRIMARIES_SRGB, TRANSFER_SRGB = 0, 1, 1, 1, 13


class _Bits:
    """Numbers in a run of bits, of which the lowest of each byte comes first."""

    def __init__(self, content: bytes) -> None:
        self.rest, self.left = int.from_bytes(content, "little"), 8 * len(content)

    def take(self, count: int) -> int:
        if count > self.left:
            raise struct.error("the header is cut off")
        value = self.rest & ((1 << count) - 1)
        self.rest >>= count
        self.left -= count
        return value

    def number(self, ways: Ways) -> int:
        count, base = ways[self.take(2)]
        return self.take(count) + base


def read_header(content: bytes) -> Header | None:
    """Return the header of a JPEG XL image, or None for another file.

    Raises:
        struct.error: if the header is cut off.
    """
    stream = content[:4096]
    if content.startswith(CONTAINER):
        stream = next((_first_part(kind, body) for kind, body in boxes(content) if kind in (b"jxlc", b"jxlp")), b"")
    if not stream.startswith(CODESTREAM):
        return None
    bits = _Bits(stream[2:])
    size = _size(bits)
    depth, problem, is_srgb = _metadata(bits)
    # imagecodecs returns no profile of colours other than sRGB.
    return Header("JPEGXL", "JPEG XL", size, depth, problem=problem, profile=b"" if is_srgb else None)


def _first_part(kind: bytes, body: bytes) -> bytes:
    # A part of a codestream begins with its number.
    return body[4:] if kind == b"jxlp" else body


def _size(bits: _Bits, side: Ways = SIDE, eighths: Ways | None = None) -> Size:
    """Return width and height. ``eighths`` is how a side divided by 8 is written; by default 1 plus 5 bits."""
    in_eighths = bits.take(1)

    def length() -> int:
        if in_eighths:
            return 8 * (bits.number(eighths) if eighths else bits.take(5) + 1)
        return bits.number(side)

    height = length()
    ratio = bits.take(3)
    if not ratio:
        return length(), height
    numerator, denominator = RATIOS[ratio]
    return height * numerator // denominator, height


def _metadata(bits: _Bits) -> tuple[int, str, bool]:
    """Return the bits of each channel, why the image can't be decoded, and whether its colours are sRGB.

    The reason is empty if the image can be decoded. If it can't, nothing is known about its colours.
    """
    if bits.take(1):
        # All fields have their defaults.
        return 8, "", True
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            _size(bits)  # size that is meant for display
        if bits.take(1):
            _size(bits, PREVIEW, PREVIEW_EIGHTHS)
        if bits.take(1):
            for ways in ANIMATION:
                bits.number(ways)
            bits.take(1)  # timecodes
    depth, is_float = _depth(bits)
    if is_float:
        return depth, "has pixels of floating point", False
    bits.take(1)  # whether 16 bits are enough for decoding
    extra = bits.number(COUNT)
    problem = _extra_problem(bits, extra) if extra else ""
    return depth, problem, not problem and _is_srgb(bits)


def _is_srgb(bits: _Bits) -> bool:
    """Return whether the colour encoding is sRGB, or gray with the transfer function of sRGB."""
    bits.take(1)  # whether the pixels are stored in XYB
    if bits.take(1):
        # All fields have their defaults.
        return True
    has_icc_profile = bits.take(1)
    if has_icc_profile:
        return False
    space = bits.number(KIND)
    if space not in (RGB, GRAY) or bits.number(KIND) != WHITE_D65:
        return False
    if space == RGB and bits.number(KIND) != PRIMARIES_SRGB:
        return False
    has_gamma = bits.take(1)
    return not has_gamma and bits.number(KIND) == TRANSFER_SRGB


def _depth(bits: _Bits) -> tuple[int, bool]:
    if bits.take(1):
        depth = bits.number(FLOAT_DEPTH)
        bits.take(4)  # bits of the exponent
        return depth, True
    return bits.number(DEPTH), False


def _extra_problem(bits: _Bits, count: int) -> str:
    """Return what is wrong with the extra channels, or an empty text for one channel of plain alpha."""
    if count > 1:
        return f"has {count} extra channels"
    if bits.take(1):
        return ""
    kind = bits.number(KIND)
    if kind != ALPHA:
        return "has an extra channel other than alpha, such as CMYK or a spot colour"
    _depth(bits)
    bits.number(SHIFT)
    bits.take(8 * bits.number(NAME))
    return "has premultiplied alpha" if bits.take(1) else ""
