"""List the images in tar archives by their headers, and check a member when it is read."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, cast

from ..block_cache import BLOCK_BYTES, LruCache
from ..files import RandomAccessFile, open_file
from ..object_stores.base import Stores
from .compression import decompress_blocks
from .forward_stream import ForwardStream, read_at
from .location import RETRY, Member, is_compressed

# tarfile holds extended headers (pax, GNU long names) in memory.
MAX_HEADER_BYTES = 1 << 20
HEADER_BYTES = tarfile.BLOCKSIZE


def list_members(archive: str, extensions: frozenset[str], stores: Stores | None = None) -> Iterator[Member]:
    """Yield the images in a tar archive, in the order in which they lie in it. Only headers are read.

    Members whose base name starts with a dot, or has none of these lower-case extensions, are skipped. The second
    member of a name is called ``NAME#2``, and so on.

    Raises:
        ValueError: if the archive is broken, cut off or can't be read; the images before that place are yielded first.
    """
    seen: Counter[str] = Counter()
    try:
        with _headers(archive, stores) as file, tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
            for member in tar:
                # Else tarfile keeps the header of every member in memory.
                tar.members = []  # type: ignore[attr-defined]
                if member.isreg() and not member.issparse() and _is_wanted(member.name, extensions):
                    seen[member.name] += 1
                    name = member.name if seen[member.name] == 1 else f"{member.name}#{seen[member.name]}"
                    yield Member(archive, member.offset_data, member.size, name)
            _check_end(file, tar.offset, to_the_last=is_compressed(archive))
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"the archive is broken after {sum(seen.values())} pictures, replace it: {error}") from error


def check_member(content: bytes, member: Member) -> bytes:
    """Return the bytes of a member. ``content`` is its header of 512 bytes and the bytes behind that.

    Raises:
        ValueError: if ``content`` is too short, or its header has another size or another name.
    """
    if len(content) < HEADER_BYTES + member.size:
        raise ValueError(f"the archive in the URI is shorter than it was when it was listed{RETRY}")
    try:
        header = tarfile.TarInfo.frombuf(content[:HEADER_BYTES], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        header = None
    if header is None or header.size != member.size or not _is_named(header.name, member.name):
        raise ValueError(f"the archive in the URI has changed since it was listed{RETRY}")
    return content[HEADER_BYTES : HEADER_BYTES + member.size]


def _is_named(header: str, name: str) -> bool:
    """Return whether a header may belong to a member of this name.

    Long names and names that are not ASCII stand in an extended header, so that for them every header may belong.
    """
    plain = name.isascii() and len(name) < tarfile.LENGTH_NAME
    return not plain or name == header or name.rpartition("#")[0] == header


class _Headers:
    """A file whose ``read`` refuses more than ``MAX_HEADER_BYTES`` at once: a header that claims more is hostile."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def __enter__(self) -> _Headers:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has more than {MAX_HEADER_BYTES >> 20} MiB")
        content: bytes = self._file.read(size)
        return content


def _headers(archive: str, stores: Stores | None) -> _Headers:
    if not is_compressed(archive):
        return _Headers(open_file(archive, stores))
    stream = ForwardStream(
        archive,
        lambda: decompress_blocks(archive, lambda: open_file(archive, stores, decompress=False)),
        LruCache(2 * BLOCK_BYTES),
        len,
    )
    return _Headers(io.BufferedReader(RandomAccessFile(lambda start, size: read_at(stream, start, size))))


def _check_end(file: _Headers, end: int, to_the_last: bool) -> None:
    """Check for the end mark, 512 zeros at byte ``end``; tarfile takes a broken or cut-off header for the end.

    With ``to_the_last`` the file is read to its end, which verifies the compressed data behind the mark.

    Raises:
        ReadError: if there is no end mark.
        ValueError: if the compressed data are broken or cut off.
    """
    file.seek(end)
    if file.read(HEADER_BYTES) != bytes(HEADER_BYTES):
        raise tarfile.ReadError("its end mark is missing, so it may be cut off")
    while to_the_last and file.read(MAX_HEADER_BYTES):
        pass


def _is_wanted(name: str, extensions: frozenset[str]) -> bool:
    base = posixpath.basename(name)
    return not base.startswith(".") and posixpath.splitext(base)[1].lower() in extensions
