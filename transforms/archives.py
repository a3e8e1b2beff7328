"""Pictures in tar archives: found by the headers, and read where they lie, in the order in which they lie."""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from .records import ImageRef
from .tables import open_file

ARCHIVES, COMPRESSED = (".tar",), (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Members that begin in the same stretch of an archive share a shard: whoever annotates them reads on and on.
STRETCH_BYTES = 256 << 20
_MEMBER = re.compile(r"tar:(\d+):(\d+):(.*?\.tar)#", re.DOTALL | re.IGNORECASE)


class Member(NamedTuple):
    """Where a member's bytes lie."""

    archive: str
    offset: int
    size: int


def is_archive(uri: str) -> bool:
    """Whether a name is that of an archive."""
    return uri.lower().endswith(ARCHIVES + COMPRESSED)


def member_of(uri: str) -> Member:
    """What the URI of a member says.

    Raises:
        ValueError: it is none.
    """
    match = _MEMBER.match(uri)
    if not match:
        raise ValueError("this is no member of an archive")
    return Member(match[3], int(match[1]), int(match[2]))


def list_members(ref: ImageRef, extensions: frozenset[str]) -> Iterator[ImageRef]:
    """The pictures in an archive, whose URI in rows is ``ARCHIVE#NAME``; of what is no archive, the picture itself.

    Hidden members, and those without such an extension, are passed over. A name that comes again has its number behind
    it. Where an archive breaks off, that is one more picture, which fails.
    """
    if not is_archive(ref.uri):
        yield ref
        return
    if ref.uri.lower().endswith(COMPRESSED):
        yield ref._replace(problem=f"{ref.filename}: a compressed archive can't be read from its middle: uncompress it")
        return
    seen: Counter[str] = Counter()
    try:
        with open_file(ref.uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                # It would keep them all.
                tar.members = []  # type: ignore[attr-defined]
                if member.isreg() and not member.issparse() and _is_wanted(member.name, extensions):
                    seen[member.name] += 1
                    name = member.name if seen[member.name] == 1 else f"{member.name}#{seen[member.name]}"
                    yield ImageRef(f"tar:{member.offset_data}:{member.size}:{ref.uri}#{name}", name)
            # What is no header, or half of one, tarfile takes for the end.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("there is no end mark where it ends")
    except tarfile.TarError as error:
        yield ref._replace(
            problem=f"{ref.filename}: the archive is broken, after {sum(seen.values())} pictures: {error}"
        )


def home_of(ref: ImageRef) -> str:
    """The name in hex by which a picture finds its shard: members of one stretch of an archive have the same."""
    if not _MEMBER.match(ref.uri):
        return ref.key
    archive, offset, _ = member_of(ref.uri)
    return sha256(f"{offset // STRETCH_BYTES}:{archive}".encode("utf-8", "surrogateescape")).hexdigest()


def in_order(ref: ImageRef) -> tuple[str, int]:
    """Sorts pictures by archive, and within one as they lie."""
    if not _MEMBER.match(ref.uri):
        return ("", 0)
    archive, offset, _ = member_of(ref.uri)
    return (archive, offset)


def _is_wanted(name: str, extensions: frozenset[str]) -> bool:
    base = posixpath.basename(name)
    return not base.startswith(".") and posixpath.splitext(base)[1].lower() in extensions
