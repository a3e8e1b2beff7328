"""Files that break image readers: cut off, mislabelled, not images at all, and decompression bombs."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pillow_heif
from PIL import Image

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO")
# For writing HEIF in tests.
pillow_heif.register_heif_opener()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header states this size, with too little data for it."""
    return _png(width, height, zlib.compress(b"\0" * 99))


def png_of_zeros(side: int, level: int) -> bytes:
    """A complete black PNG, compressed by zlib at ``level``; 0 means not at all."""
    squeeze, line = zlib.compressobj(level), bytes(1 + 3 * side)
    return _png(side, side, b"".join(squeeze.compress(line) for _ in range(side)) + squeeze.flush())


def make_hostile(folder: Path, photo: Image.Image) -> dict[str, bool]:
    """Fill a folder with hostile files; return by name whether a file can be decoded all the same."""
    files: dict[str, tuple[bytes, bool]] = {
        "empty.jpg": (b"", False),
        "one byte.png": (b"\x89", False),
        "page.jpg": (b"<!DOCTYPE html><title>404</title>", False),
        "random.jpg": (random.Random(0).randbytes(50_000), False),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", False),
        "bomb by header.png": (png_claiming(60_000, 60_000), False),
        "bomb by header.gif": (b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\0" * 99, False),
        "thin.png": (encoded(Image.new("L", (65_535, 1))), False),
        "a jpeg.png": (encoded(photo, "JPEG"), True),
        "a png.jpg": (encoded(photo, "PNG"), True),
        "more behind it.png": (encoded(photo, "PNG") + b"more" * 1000, True),
        "zeros.png": (png_of_zeros(8192, 9), True),
        "200 MB of zeros.png": (png_of_zeros(8192, 0), True),
    }
    frames = [Image.new("L", (300, 300), shade % 256) for shade in range(1000)]
    for kind in ("GIF", "WEBP"):
        files[f"bomb by frames.{kind.lower()}"] = (
            encoded(frames[0], kind, save_all=True, append_images=frames[1:]),
            True,
        )
    for kind in KINDS:
        content = encoded(photo, kind)
        for tenths in range(1, 10):
            files[f"{tenths} tenths of a {kind}.jpg"] = (content[: tenths * len(content) // 10], False)
    folder.mkdir()
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: good for name, (_, good) in files.items()}


def _png(width: int, height: int, pixels: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
