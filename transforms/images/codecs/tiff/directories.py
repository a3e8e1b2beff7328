"""The directories of a TIFF file: where each picture in it stands, and of which kind it is.

Pillow reads the directories that follow each other. It does not read those in the tag SubIFDs, where camera raw files
and some pyramids have their full picture.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from PIL.TiffImagePlugin import COMPRESSION_INFO

# Limits for hostile files.
MAX_DIRECTORIES, MAX_ENTRIES, MAX_VALUES = 500, 1000, 64
SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
SAMPLES, PLANAR, SUB_IFDS, SAMPLE_FORMAT = 277, 284, 330, 339
WANTED = (SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, SUB_IFDS, SAMPLE_FORMAT)
# Type of an entry -> format of struct. Types that no wanted tag has are left out.
TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
PHOTOMETRICS = {
    0: "gray, 0 is white",
    1: "gray, 0 is black",
    2: "RGB",
    3: "palette",
    4: "a mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "the raw values of a sensor",
    32844: "LogL",
    32845: "LogLuv",
    34892: "the raw values of a sensor",
}
RAW = (32803, 34892)
FORMATS = {1: "unsigned", 2: "signed", 3: "floating point", 4: "untyped", 5: "complex", 6: "complex"}


class Directory(NamedTuple):
    """One picture of a TIFF file. ``offset`` is where its directory stands; ``is_sub`` if a SubIFDs tag names it."""

    offset: int
    is_sub: bool
    tags: Mapping[int, tuple[int, ...]]

    def first(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        values = self.tags.get(tag)
        return values[0] if values else default

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        return self.first(WIDTH), self.first(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """Return whether the directory says that its picture is a smaller copy of another one."""
        return bool(self.first(SUBFILE) & 1) or (SUBFILE not in self.tags and self.first(OLD_SUBFILE) == 2)

    @property
    def is_page(self) -> bool:
        """Return whether the directory says that its picture is a page of several."""
        return bool(self.first(SUBFILE) & 2) or self.first(OLD_SUBFILE) == 3

    @property
    def is_mask(self) -> bool:
        """Return whether the directory says that its picture is a mask of transparency."""
        return bool(self.first(SUBFILE) & 4)

    @property
    def is_raw(self) -> bool:
        """Return whether the picture holds the values of a camera's sensor."""
        return self.first(PHOTOMETRIC) in RAW

    def __str__(self) -> str:
        """Return what the picture holds, for a message."""
        bits, photometric, compression = self.tags.get(BITS, (1,)), self.first(PHOTOMETRIC), self.first(COMPRESSION, 1)
        samples = max(self.first(SAMPLES, 1), len(bits))
        facts = [
            f"{samples} x {'/'.join(map(str, sorted(set(bits))))} bits a pixel",
            FORMATS.get(self.first(SAMPLE_FORMAT, 1), "of an unknown number format"),
            PHOTOMETRICS.get(photometric, f"photometric {photometric}"),
            "uncompressed" if compression == 1 else f"compression {COMPRESSION_INFO.get(compression, compression)}",
            *(["separate planes"] if self.first(PLANAR, 1) == 2 else []),
        ]
        return ", ".join(facts)


def is_big_tiff(content: bytes) -> bool:
    """Return whether the offsets in a TIFF have 64 bits."""
    return 43 in content[2:4]


def read_directories(content: bytes) -> list[Directory]:
    """Return the directories of a TIFF in the order of their chain, each followed by those in its SubIFDs.

    Directories that are cut off are left out. At most ``MAX_DIRECTORIES`` are read.
    """
    order = ">" if content[:2] == b"MM" else "<"
    is_big = is_big_tiff(content)
    found: list[Directory] = []
    seen = {0}
    try:
        waiting = deque([(struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)[0], False)])
    except struct.error:
        return []
    while waiting and len(found) < MAX_DIRECTORIES:
        offset, is_sub = waiting.popleft()
        if offset in seen:
            continue
        seen.add(offset)
        try:
            tags, following = _read(content, offset, order, is_big)
        except (struct.error, OverflowError):
            continue
        found.append(Directory(offset, is_sub, tags))
        if not is_sub:
            waiting.append((following, False))
        waiting.extendleft((sub, True) for sub in reversed(tags.get(SUB_IFDS, ())))
    return found


def _read(content: bytes, offset: int, order: str, is_big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """Return the wanted tags of the directory at ``offset``, and the offset of the next one.

    Raises:
        struct.error: if the directory is cut off.
    """
    head, size, width = ("Q", 20, 8) if is_big else ("H", 12, 4)
    (count,) = struct.unpack_from(order + head, content, offset)
    start = offset + struct.calcsize(order + head)
    tags = {}
    for index in range(min(count, MAX_ENTRIES)):
        at = start + size * index
        tag, kind, number = struct.unpack_from(order + ("HHQ" if is_big else "HHI"), content, at)
        if tag not in WANTED or kind not in TYPES:
            continue
        values = order + f"{min(number, MAX_VALUES)}{TYPES[kind]}"
        place = at + size - width
        if struct.calcsize(order + TYPES[kind]) * number > width:
            (place,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, place)
        tags[tag] = struct.unpack_from(values, content, place)
    end = start + size * count
    # Some writers leave out the offset behind the last directory.
    is_last = end + width > len(content)
    return tags, 0 if is_last else struct.unpack_from(order + ("Q" if is_big else "I"), content, end)[0]


def moved_to(content: bytes, directory: Directory) -> bytes:
    """Return a TIFF file whose first picture is that of ``directory``."""
    order = ">" if content[:2] == b"MM" else "<"
    if is_big_tiff(content):
        return content[:8] + struct.pack(order + "Q", directory.offset) + content[16:]
    return content[:4] + struct.pack(order + "I", directory.offset) + content[8:]
