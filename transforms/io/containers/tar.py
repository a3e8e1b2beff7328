"""List the images in tar archives by their headers, and check a member when it is read."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import IO, Any, NamedTuple, cast

from ..block_cache import BLOCK_BYTES, LruCache
from ..files import RandomAccessFile, open_file
from ..object_stores.base import Stores
from .compression import decompress_blocks
from .forward_stream import ForwardStream, read_at
from .location import RETRY, Member, is_compressed
from .tar_links import Links

# tarfile holds extended headers (pax, GNU long names) in memory.
MAX_HEADER_BYTES = 1 << 20
HEADER_BYTES = tarfile.BLOCKSIZE
# Between two archives of one file there are at least 1 KiB of zeros, and 10 KiB as a rule.
ZEROS_BYTES = 64 << 10
NO_FILE = "members of archives that are neither files nor links"
NO_TARGET = "links in archives to no file of the archive"
CUT_OFF = "the archive ends inside of this picture"
REPLACE = "; replace the archive, and run the command again with --retry-errors"
NO_TAR = "data behind the end of an archive that are no archive"
SPARSE = "the member is stored as a sparse file, which is not read: make the archive again without --sparse"


# What an archive raises that is broken or can't be read.
FAULTS = (tarfile.TarError, OSError, ValueError, RecursionError)


class LeftOut(NamedTuple):
    """A part of an archive that is not read.

    ``problem`` is why a picture can't be read. Without a problem, ``name`` is no picture; ``kind`` is then what it is,
    or "" for a plain file.
    """

    name: str
    kind: str = ""
    problem: str = ""


def list_members(
    archive: str, extensions: frozenset[str] | None, stores: Stores | None = None
) -> Iterator[Member | LeftOut]:
    """Yield the pictures in a tar archive and what is left out, in the order in which they lie in it; links last.

    A picture is a member with one of these lower-case extensions (None: any), or a link with one to a member. Members
    whose base name starts with a dot, and folders, are passed over. The second picture of a name is called ``NAME#2``.
    Archives that were written one behind the other into one file are all listed. Only headers are read, and a second
    time if there are links.

    Raises:
        ValueError: if the archive is broken, cut off or can't be read; the pictures before that are yielded first.
    """
    seen = _Names()
    links, broken, num_cut = Links(), cast(Exception | None, None), 0
    try:
        for number, (part, info, problem) in enumerate(_members(archive, stores)):
            if isinstance(info, LeftOut):
                yield info
                continue
            links.see(info)
            if info.isdir() or posixpath.basename(info.name).startswith("."):
                continue
            if (left_out := _left_out(info, extensions)) is not None:
                yield left_out
            elif info.isreg():
                num_cut += bool(problem)
                yield _picture(archive, info, seen.unique(info.name), problem=problem)
            else:
                links.add(seen.unique(info.name), info, number, part)
    except FAULTS as error:
        broken = error
    broken = (yield from _linked_pictures(archive, stores, links)) or broken
    if broken:
        raise ValueError(
            f"the archive is broken after {seen.total() - num_cut} pictures, replace it: {broken}"
        ) from broken


class _Names(Counter[str]):
    """How often each name was given to ``unique``."""

    def unique(self, name: str) -> str:
        """Return a name for the first member that is called so, and ``NAME#2`` and so on for the next ones."""
        self[name] += 1
        return name if self[name] == 1 else f"{name}#{self[name]}"


def _left_out(info: tarfile.TarInfo, extensions: frozenset[str] | None) -> LeftOut | None:
    """Return what is left out if a member is neither a picture nor a link with the name of one; else None."""
    if not (info.isreg() or info.issym() or info.islnk()):
        return LeftOut(info.name, NO_FILE)
    is_named = extensions is None or posixpath.splitext(info.name)[1].lower() in extensions
    return None if is_named else LeftOut(info.name)


def _picture(archive: str, info: tarfile.TarInfo, name: str, target: str = "", problem: str = "") -> Member | LeftOut:
    if problem or info.issparse():
        return LeftOut(name, problem=problem or SPARSE)
    return Member(archive, info.offset_data, info.size, name, target)


def _linked_pictures(
    archive: str, stores: Stores | None, links: Links
) -> Generator[Member | LeftOut, None, Exception | None]:
    """Yield the picture of each link that was added, or what is left out in its place; if broken, pictures only.

    Returns:
        The error that ended this pass over the archive, or None.
    """
    broken = None
    try:
        for number, (part, info, problem) in enumerate(_members(archive, stores) if links.resolve() else ()):
            if not isinstance(info, LeftOut) and info.isreg() and not problem:
                links.offer(info, number, part)
    except FAULTS as error:
        broken = error
    for name, found in links.pictures():
        if found:
            yield _picture(archive, found, name, found.name)
        elif not broken:
            # Behind the place where an archive is broken there may be the file that a link names.
            yield LeftOut(name, NO_TARGET)
    return broken


def _members(archive: str, stores: Stores | None) -> Iterator[tuple[int, tarfile.TarInfo | LeftOut, str]]:
    """Yield the members of all archives in a file, one behind the other, and what is no archive behind the last one.

    Each comes with the number of its archive in the file, from 0, and why its bytes can't be read ("" if they can).

    Raises:
        TarError: if the file is no archive, or one of its archives is broken or cut off.
        OSError: if it can't be read.
        ValueError: if its compressed data are broken.
    """
    with _headers(archive, stores) as file:
        start: int | None = 0
        for part in count():
            if start is None:
                return
            file.seek(start)
            with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
                for member in tar:
                    # Else tarfile keeps the header of every member in memory.
                    tar.members = []  # type: ignore[attr-defined]
                    try:
                        problem = "" if _is_whole(file, member) else f"{CUT_OFF}{REPLACE}"
                    except FAULTS as error:
                        yield part, member, f"the archive is broken inside of this picture: {error}{REPLACE}"
                        raise
                    yield part, member, problem
                start = _next_archive(file, tar.offset)
            if start is not None and not _is_header(file, start):
                yield part, LeftOut(f"{posixpath.basename(archive)}, byte {start}", NO_TAR), ""
                # The compressed data are verified to their end.
                while is_compressed(archive) and file.read(ZEROS_BYTES):
                    pass
                return


def _is_whole(file: _Headers, member: tarfile.TarInfo) -> bool:
    """Return whether the file does not end before the last byte of a member. tarfile yields a member that is cut off.

    Raises:
        OSError: if the file can't be read.
        ValueError: if its compressed data are broken.
    """
    if not member.isreg() or member.issparse() or not member.size:
        return True
    file.seek(member.offset_data + member.size - 1)
    return bool(file.read(1))


def check_member(content: bytes, member: Member, links: Callable[[], Mapping[str, str]]) -> bytes:
    """Return the bytes of a member. ``content`` is its header of 512 bytes and the bytes behind that.

    Args:
        links: returns the links of the archive, see ``list_links``. Called if the header has another name.

    Raises:
        ValueError: if ``content`` is too short, or its header has another size or another name.
    """
    if len(content) < HEADER_BYTES + member.size:
        raise ValueError(f"the archive in the URI is shorter than it was when it was listed{RETRY}")
    try:
        header = tarfile.TarInfo.frombuf(content[:HEADER_BYTES], tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        header = None
    if header is None or header.size != member.size or not _belongs(header.name, member, links):
        raise ValueError(f"the archive in the URI has changed since it was listed{RETRY}")
    return content[HEADER_BYTES : HEADER_BYTES + member.size]


def list_links(archive: str, stores: Stores | None = None) -> dict[str, str]:
    """Return for each link to a file of an archive, by its name, the name of that file; if it is broken, the first."""
    links: dict[str, str] = {}
    with suppress(ValueError):
        for found in list_members(archive, None, stores):
            if isinstance(found, Member) and found.target:
                links[found.name] = found.target
    return links


def _belongs(header: str, member: Member, links: Callable[[], Mapping[str, str]]) -> bool:
    """Return whether the header of this name is that of a member. Rows of links lack ``target``: it is looked up."""
    if _is_named(header, member.target or member.name):
        return True
    return not member.target and _is_named(header, links().get(member.name, ""))


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


def _next_archive(file: _Headers, end: int) -> int | None:
    """Return the byte at which something else than zeros begins behind an archive that ends at byte ``end``.

    Returns:
        None if there are only zeros, or nothing.

    Raises:
        ReadError: if there is no end mark, 512 zeros: tarfile takes a broken or cut-off header for the end.
        ValueError: if compressed data behind the end are broken or cut off.
    """
    file.seek(end)
    if file.read(HEADER_BYTES) != bytes(HEADER_BYTES):
        raise tarfile.ReadError("its end mark is missing, so it may be cut off")
    at = end + HEADER_BYTES
    while block := file.read(ZEROS_BYTES):
        if rest := block.lstrip(b"\0"):
            zeros = len(block) - len(rest)
            return at + zeros - zeros % HEADER_BYTES
        at += len(block)
    return None


def _is_header(file: _Headers, start: int) -> bool:
    """Return whether the header of a member begins at byte ``start``."""
    file.seek(start)
    try:
        tarfile.TarInfo.frombuf(file.read(HEADER_BYTES), tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return False
    return True
