"""Which pictures are read together, and in which order: those that lie side by side in one file."""

from __future__ import annotations

from hashlib import sha256

from .archives import is_compressed, member_of
from .embedded import cell_of
from .records import ImageRef
from .uris import PARQUET, TAR, scheme_of

# Members that begin in the same stretch of an archive share a shard: whoever annotates them reads on and on.
STRETCH_BYTES = 256 << 20


def home_of(ref: ImageRef) -> str:
    """The name in hex by which a picture finds its shard.

    Members of one stretch of an archive have the same, all of a compressed one, and those in one row group.
    """
    file, stretch, _ = in_order(ref)
    return sha256(f"{stretch}:{file}".encode("utf-8", "surrogateescape")).hexdigest() if file else ref.key


def in_order(ref: ImageRef) -> tuple[str, int, int]:
    """Sorts pictures by file, by the stretch of it that is read at once, and within that as they lie."""
    scheme = scheme_of(ref.uri)
    if scheme == TAR:
        member = member_of(ref.uri)
        stretch = 0 if is_compressed(member.archive) else member.offset // STRETCH_BYTES
        return (member.archive, stretch, member.offset)
    if scheme == PARQUET:
        cell = cell_of(ref.uri)
        return (cell.file, cell.group, cell.row)
    return ("", 0, 0)
