"""Compressed files unpacked as they are read, in bounded memory, and no further than a picture could need."""

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

# Pictures hardly shrink. What unpacks to so many times what was read of it, once it is more than a gigabyte, was made
# to fill a machine.
MAX_RATIO, BYTES_BEFORE_RATIO = 200, 1 << 30
# What unpacking .xz may take: its own highest setting takes 65 MiB, but a file may ask for gigabytes. Zstandard itself
# refuses more than 128 MiB, the others need less than one.
XZ_MEMORY = 256 << 20
# Always the same, from the beginning on: whoever unpacks a broken file again gets just as far.
STEP_BYTES = 64 << 10


class _Counted:
    """A file, and how many bytes were read from it."""

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


class _Xz:
    """LZMAFile, but for a limit on memory."""

    def __init__(self, file: _Counted) -> None:
        self._file, self._packed = file, b""
        self._decoder: lzma.LZMADecompressor | None = None

    def read(self, size: int) -> bytes:
        while True:
            if not self._packed and (self._decoder is None or self._decoder.needs_input):
                self._packed = self._file.read(STEP_BYTES)
                if not self._packed and self._decoder is not None:
                    raise EOFError
            if self._decoder is None:
                if not self._packed:
                    return b""
                # Between one stream and the next there may be zeros.
                self._packed = self._packed.lstrip(b"\0")
                if not self._packed:
                    continue
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)
            piece = self._decoder.decompress(self._packed, size)
            self._packed = b""
            if self._decoder.eof:
                self._packed, self._decoder = self._decoder.unused_data, None
            if piece:
                return piece


def _zstandard(file: _Counted) -> Any:
    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")


# By the end of a file's name.
CODECS: dict[str, Callable[[_Counted], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),  # type: ignore[call-overload]
    ".tgz": lambda file: gzip.GzipFile(fileobj=file),  # type: ignore[call-overload]
    ".bz2": bz2.BZ2File,  # type: ignore[dict-item]
    ".tbz2": bz2.BZ2File,  # type: ignore[dict-item]
    ".xz": _Xz,
    ".txz": _Xz,
    ".zst": _zstandard,
}


def decompress_blocks(name: str, open_packed: Callable[[], Any]) -> Iterator[bytes]:
    """Blocks of what a compressed file holds, each of ``BLOCK_BYTES`` but for the last.

    Raises:
        OSError: it can't be read.
        ValueError: it is broken, cut off, or unpacks to absurdly much; what came before was given.
    """
    codec = next(make for ending, make in CODECS.items() if name.lower().endswith(ending))
    with open_packed() as file:
        packed = _Counted(file)
        plain, total, problem = codec(packed), 0, ""
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
                    problem = f"it unpacks to more than {MAX_RATIO} times its size"
            if pieces:
                yield b"".join(pieces)
            if room and not problem:
                return
    raise ValueError(problem)


def _step(plain: Any, size: int) -> tuple[bytes, str]:
    """The next bytes, or why there are none."""
    try:
        return plain.read(size), ""
    except FetchError:
        raise
    except EOFError:
        return b"", "its compressed data end too early"
    except (OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        return b"", f"its compressed data are broken: {error}"
