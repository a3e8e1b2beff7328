"""Write TIFF and PNG files of any depth, sample by sample."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

DEFLATE = 8
SHORT, LONG = 3, 4


def packed(rows: Iterable[Sequence[float]], bits: int, kind: str = "u", order: str = ">") -> bytes:
    """The bytes of rows of samples, each row padded to whole bytes. ``kind`` is NumPy's: u, i or f."""
    if bits % 8 == 0:
        return b"".join(np.array(row).astype(f"{order}{kind}{bits // 8}").tobytes() for row in rows)
    texts = ("".join(format(int(sample), f"0{bits}b") for sample in row) for row in rows)
    return b"".join(
        int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big") for text in texts
    )


def tiff(
    rows: Sequence[Sequence[float]],
    bits: Sequence[int],
    photometric: int,
    *,
    sample_format: int = 1,
    fill_order: int = 1,
    extra: Sequence[int] = (),
    big_endian: bool = False,
    compression: int = 1,
    tags: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """A TIFF of one strip. ``tags`` are more tags: number -> type and values."""
    order = ">" if big_endian else "<"
    data = packed(rows, bits[0], {1: "u", 2: "i", 3: "f"}[sample_format], order)
    if fill_order == 2:
        data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    if compression == DEFLATE:
        data = zlib.compress(data)
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (LONG, [len(rows[0]) // len(bits)]),
        257: (LONG, [len(rows)]),
        258: (SHORT, bits),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        266: (SHORT, [fill_order]),
        273: (LONG, [8]),
        277: (SHORT, [len(bits)]),
        278: (LONG, [len(rows)]),
        279: (LONG, [len(data)]),
        339: (SHORT, [sample_format] * len(bits)),
        **({338: (SHORT, extra)} if extra else {}),
        **(tags or {}),
    }
    data += b"\0" * (len(data) % 2)
    start = 8 + len(data)
    values_at = start + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        value = struct.pack(f"{order}{len(numbers)}{'H' if kind == SHORT else 'I'}", *numbers)
        if len(value) > 4:
            value, values = struct.pack(order + "I", values_at + len(values)), values + value
        directory += struct.pack(order + "HHI", tag, kind, len(numbers)) + value.ljust(4, b"\0")
    magic = b"MM\0*" if big_endian else b"II*\0"
    return magic + struct.pack(order + "I", start) + data + directory + bytes(4) + values


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    rows: Sequence[Sequence[int]],
    bits: int,
    colour_type: int,
    before: bytes = b"",
    behind: bytes = b"",
    channels: int = 1,
) -> bytes:
    """A PNG. ``before`` and ``behind`` are chunks before and behind its pixels."""
    lines = b"".join(b"\0" + packed([row], bits) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), bits, colour_type, 0, 0, 0)
    body = before + chunk(b"IDAT", zlib.compress(lines)) + behind
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
