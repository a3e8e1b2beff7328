"""Decompress files while they are read, in bounded memory, with limits against decompression bombs."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from ..block_cache import BLOCK_BYTES
from ..retry import FetchError

# Decompressed bytes for each compressed byte, checked once BYTES_BEFORE_RATIO are decompressed. Images hardly compress,
# so a file with a higher ratio was made to exhaust a machine.
MAX_RATIO, BYTES_BEFORE_RATIO = 200, 1 << 30
# Memory of an .xz decompressor. The highest preset of xz needs 65 MiB, but a file may request gigabytes. Zstandard
# refuses more than 128 MiB itself; the other formats need less than 1 MiB.
MAX_XZ_MEMORY = 256 << 20
# A constant step, so that a broken file decompresses to the same length every time.
STEP_BYTES = 64 << 10


class _CountingFile:
    """A file that counts the bytes read from it. Closing it leaves the file open."""

    def __init__(self, file: Any) -> None:
        self._file, self.bytes, self.closed = file, 0, False

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._file.read(size)
        self.bytes += len(piece)
        return piece

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class _XzFile:
    """A reader of .xz; ``read`` raises LZMAError if it needs over ``MAX_XZ_MEMORY`` bytes (LZMAFile has no limit)."""

    def __init__(self, file: _CountingFile) -> None:
        self._file, self._packed = file, b""
        self._decoder: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` decompressed bytes; none at the end. Raise EOFError if the file is cut off."""
        while True:
            if not self._packed and (self._decoder is None or self._decoder.needs_input):
                self._packed = self._file.read(STEP_BYTES)
                if not self._packed and self._decoder is not None:
                    raise EOFError
            if self._decoder is None:
                if not self._packed:
                    return b""
                # The format allows zeros as padding between two streams.
                self._packed = self._packed.lstrip(b"\0")
                if not self._packed:
                    continue
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY)
            piece = self._decoder.decompress(self._packed, size)
            self._packed = b""
            if self._decoder.eof:
                self._packed, self._decoder = self._decoder.unused_data, None
            if piece:
                return piece


def _zstandard(file: _CountingFile) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


# The extension of a file -> what opens it for decompressed reading.
OPENERS: dict[str, Callable[[_CountingFile], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),  # type: ignore[call-overload]
    ".tgz": lambda file: gzip.GzipFile(fileobj=file),  # type: ignore[call-overload]
    ".bz2": bz2.BZ2File,  # type: ignore[dict-item]
    ".tbz2": bz2.BZ2File,  # type: ignore[dict-item]
    ".xz": _XzFile,
    ".txz": _XzFile,
    ".zst": _zstandard,
}


def decompress_blocks(name: str, open_packed: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the decompressed content of a file in blocks of ``BLOCK_BYTES``; the last block may be shorter.

    The extension of ``name`` decides the format. ``open_packed`` opens the compressed file.

    Raises:
        OSError: if the file can't be read.
        ValueError: after the blocks before the fault, if the file is broken, cut off or a decompression bomb.
    """
    opener = next(opener for ending, opener in OPENERS.items() if name.lower().endswith(ending))
    with open_packed() as file:
        packed = _CountingFile(file)
        plain, total, problem = opener(packed), 0, ""
        while not problem:
            pieces, room = [], BLOCK_BYTES
            while room and not problem:
                piece, problem = _step(plain, min(STEP_BYTES, room))
                if not piece:
                    break
                pieces.append(piece)
                room -= len(piece)
                total += len(piece)
                if total > BYTES_BEFORE_RATIO and total > MAX_RATIO * packed.bytes:
                    problem = f"it unpacks to more than {MAX_RATIO} times its size; unpack it first"
            if pieces:
                yield b"".join(pieces)
            if room and not problem:
                return
    raise ValueError(problem)


def _step(plain: Any, size: int) -> tuple[bytes, str]:
    """Return up to ``size`` decompressed bytes and "", or no bytes and why; at the end of the file both are empty."""
    try:
        return plain.read(size), ""
    except FetchError:
        raise
    except EOFError:
        return b"", "its compressed data end too early; copy the file again"
    except (OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        return b"", f"its compressed data are broken: {error}; copy the file again"
