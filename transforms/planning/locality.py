"""Which pictures are read together, and in which order: those that lie side by side in one file."""

from __future__ import annotations

from hashlib import sha256

from ..core.records import KEY_DIGITS, ImageRef
from ..io.containers.parquet_images import cell_of
from ..io.containers.tar import is_compressed, member_of
from ..io.uris import PARQUET, TAR, scheme_of
from ..output.layout import Slice

# Members that begin in the same stretch of an archive share a shard: whoever annotates them reads on and on.
SEGMENT_BYTES = 256 << 20
# Rows of Parquet that are in one slice.
SLICE_ROWS = 1000


def shard_key(ref: ImageRef) -> str:
    """The name in hex by which a picture finds its shard.

    Members of one stretch of an archive have the same, all of a compressed one, and those in one row group.
    """
    file, stretch, _ = read_order(ref)
    return _digest(f"{stretch}:{file}") if file else ref.key


def slice_key(ref: ImageRef) -> str:
    """The name in hex by which a picture finds its slice: it is the same for those of a stream.

    It is told by what rows show: while slices are at work, or in between, files may be packed anew.
    """
    if not is_sequential(ref):
        return ref.key
    if scheme_of(ref.uri) == TAR:
        return _digest(member_of(ref.uri).archive)
    cell = cell_of(ref.uri)
    return _digest(f"{cell.file}#{cell.column}/{(cell.number - 1) // SLICE_ROWS}")


def is_sequential(ref: ImageRef) -> bool:
    """Whether a picture lies in something that can only be read from its beginning on."""
    scheme = scheme_of(ref.uri)
    return scheme == PARQUET or (scheme == TAR and is_compressed(member_of(ref.uri).archive))


def read_order(ref: ImageRef) -> tuple[str, int, int]:
    """Sorts pictures by file, by the stretch of it that is read at once, and within that as they lie."""
    scheme = scheme_of(ref.uri)
    if scheme == TAR:
        member = member_of(ref.uri)
        stretch = 0 if is_compressed(member.archive) else member.offset // SEGMENT_BYTES
        return (member.archive, stretch, member.offset)
    if scheme == PARQUET:
        cell = cell_of(ref.uri)
        return (cell.file, cell.group, cell.row)
    return ("", 0, 0)


def in_slice(part: Slice, ref: ImageRef) -> bool:
    """Return whether an image belongs to a slice. The first digits of its hash decide; the last ones draw its shard."""
    return int(slice_key(ref)[:KEY_DIGITS], 16) * part.of >> (4 * KEY_DIGITS) == part.number


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
