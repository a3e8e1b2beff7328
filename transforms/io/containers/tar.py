"""Pictures in tar archives, compressed or not: found by the headers, and read in the order in which they lie."""

from __future__ import annotations

import io
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast

from ...core.records import ImageRef
from ..block_cache import BLOCK_BYTES, LruCache
from ..files import RandomAccessFile, open_file
from ..object_stores.base import Stores
from .compression import decompress_blocks
from .forward_stream import ForwardStream, read_at

PLAIN, COMPRESSED = (".tar",), (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
# What a header says beyond a name (pax, GNU's long names) is held in memory.
MAX_HEADER_BYTES = 1 << 20
HEADER_BYTES = tarfile.BLOCKSIZE
_ENDINGS = "|".join(re.escape(ending) for ending in PLAIN + COMPRESSED)
_MEMBER = re.compile(rf"tar:(\d+):(\d+):(.*?(?:{_ENDINGS}))#", re.DOTALL | re.IGNORECASE)


class Member(NamedTuple):
    """Where a member's bytes lie; of a compressed archive, in what it unpacks to."""

    archive: str
    offset: int
    size: int
    name: str = ""


def is_archive(uri: str) -> bool:
    """Whether a name is that of an archive."""
    return uri.lower().endswith(PLAIN + COMPRESSED)


def is_compressed(archive: str) -> bool:
    """Whether an archive can only be read from its beginning on."""
    return archive.lower().endswith(COMPRESSED)


def member_of(uri: str) -> Member:
    """What the URI of a member says.

    Raises:
        ValueError: it is none.
    """
    match = _MEMBER.match(uri)
    if not match:
        raise ValueError("this is no member of an archive")
    return Member(match[3], int(match[1]), int(match[2]), uri[match.end() :])


def list_members(ref: ImageRef, extensions: frozenset[str], stores: Stores | None = None) -> Iterator[ImageRef]:
    """The pictures in an archive, whose URI in rows is ``ARCHIVE#NAME``; of what is no archive, the picture itself.

    Hidden members, and those without such an extension, are passed over. A name that comes again has its number behind
    it. Where an archive breaks off, or can't be read, that is one more picture, which fails.
    """
    if not is_archive(ref.uri):
        yield ref
        return
    seen: Counter[str] = Counter()
    try:
        with _headers(ref.uri, stores) as file, tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
            for member in tar:
                # It would keep them all.
                tar.members = []  # type: ignore[attr-defined]
                if member.isreg() and not member.issparse() and _is_wanted(member.name, extensions):
                    seen[member.name] += 1
                    name = member.name if seen[member.name] == 1 else f"{member.name}#{seen[member.name]}"
                    yield ImageRef(f"tar:{member.offset_data}:{member.size}:{ref.uri}#{name}", name)
            _check_end(file, tar.offset, to_the_last=is_compressed(ref.uri))
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        yield ref._replace(
            problem=f"{ref.filename}: the archive is broken, after {sum(seen.values())} pictures: {error}"
        )


def read_member(content: bytes, member: Member) -> bytes:
    """A member's bytes, from those of its header and itself.

    Raises:
        ValueError: something else lies there now.
    """
    if len(content) < HEADER_BYTES + member.size:
        raise ValueError("the archive is shorter than it was when it was listed")
    try:
        header = tarfile.TarInfo.frombuf(content[:HEADER_BYTES], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        header = None
    if header is None or header.size != member.size or not _is_named(header.name, member.name):
        raise ValueError("the archive is another than it was when it was listed")
    return content[HEADER_BYTES : HEADER_BYTES + member.size]


def _is_named(header: str, name: str) -> bool:
    """Whether a header may be that of a member: of a long name, or one that is not ASCII, it need not say the truth."""
    plain = name.isascii() and len(name) < tarfile.LENGTH_NAME
    return not plain or name == header or name.rpartition("#")[0] == header


class _Headers:
    """A file of which only headers are read."""

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
    """See that an archive ends where tarfile said so: what is no header, or half of one, it takes for the end.

    Raises:
        ReadError: it does not.
        ValueError: what is compressed breaks off behind it.
    """
    file.seek(end)
    if file.read(HEADER_BYTES) != bytes(HEADER_BYTES):
        raise tarfile.ReadError("there is no end mark where it ends")
    while to_the_last and file.read(MAX_HEADER_BYTES):
        pass


def _is_wanted(name: str, extensions: frozenset[str]) -> bool:
    base = posixpath.basename(name)
    return not base.startswith(".") and posixpath.splitext(base)[1].lower() in extensions
