"""The boxes of JPEG 2000 and JPEG XL files."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

# A picture has a handful of boxes before its pixels.
MAX_BOXES, MAX_BODY = 1000, 1 << 20
JP2_SIGNATURE = b"\0\0\0\x0cjP  "
# The box "colr" with a restricted or any ICC profile, up to its method.
_PROFILE_BOX = re.compile(rb"colr(?=[\2\3])")


def boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type of each box and up to 1 MiB of its content, at most ``MAX_BOXES`` boxes."""
    start = 0
    for _ in range(MAX_BOXES):
        if start + 8 > len(content):
            return
        size, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1 and start + 16 <= len(content):
            size, head = struct.unpack_from(">Q", content, start + 8)[0], 16
        # Size 0 means that the box extends to the end of the file.
        end = start + size if size else len(content)
        if size and size < head:
            return
        yield kind, content[start + head : min(end, start + head + MAX_BODY)]
        start = end


def hide_profile(content: bytes) -> bytes:
    """Return a JP2 file with its ICC profile in a box that decoders skip, and any other file as it is.

    imagecodecs applies the profile, and treats deep pixels as if they had 16 bits: 12 bits come out with other colours.
    """
    head, kind, pixels = content.partition(b"jp2c")
    if not content.startswith(JP2_SIGNATURE) or not _PROFILE_BOX.search(head):
        return content
    return _PROFILE_BOX.sub(b"free", head) + kind + pixels
