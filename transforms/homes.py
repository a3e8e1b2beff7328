"""Which pictures are read together, and in which order: those that lie side by side in one file."""

from __future__ import annotations

from hashlib import sha256

from .archives import is_compressed, member_of
from .records import ImageRef
from .uris import TAR, scheme_of

# Members that begin in the same stretch of an archive share a shard: whoever annotates them reads on and on.
STRETCH_BYTES = 256 << 20


def home_of(ref: ImageRef) -> str:
    """The name in hex by which a picture finds its shard.

    Members of one stretch of an archive have the same, all of a compressed one.
    """
    if scheme_of(ref.uri) != TAR:
        return ref.key
    member = member_of(ref.uri)
    stretch = 0 if is_compressed(member.archive) else member.offset // STRETCH_BYTES
    return sha256(f"{stretch}:{member.archive}".encode("utf-8", "surrogateescape")).hexdigest()


def in_order(ref: ImageRef) -> tuple[str, int]:
    """Sorts pictures by file, and within one as they lie."""
    if scheme_of(ref.uri) != TAR:
        return ("", 0)
    member = member_of(ref.uri)
    return (member.archive, member.offset)
