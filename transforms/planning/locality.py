"""Which images share a shard or a slice, and in which order a shard reads them: neighbours in a file together."""

from __future__ import annotations

from hashlib import sha256

from ..core.records import KEY_DIGITS, ImageRef
from ..io.containers.location import ImageCell, Member, is_compressed
from ..output.layout import Slice

# Members that begin in the same segment of an archive share a shard, so that one worker reads the segment in order.
SEGMENT_BYTES = 256 << 20
# Consecutive rows of a Parquet file that are in one slice.
SLICE_ROWS = 1000


def shard_key(ref: ImageRef) -> str:
    """Return the hex digest by which an image is assigned to a shard.

    The same for all members of a compressed archive, for members in one segment of a plain archive, and for rows in
    one row group of a Parquet file. Every other image has its own, ``ref.key``.
    """
    match ref.inside:
        case Member(archive, offset):
            return _digest(f"{0 if is_compressed(archive) else offset // SEGMENT_BYTES}:{archive}")
        case ImageCell(file, _, number, row_group):
            return _digest(f"{_slice_of(number) if row_group is None else row_group}:{file}")
    return ref.key


def slice_key(ref: ImageRef) -> str:
    """Return the hex digest by which an image is assigned to a slice.

    The same for all members of a compressed archive, and for ``SLICE_ROWS`` consecutive rows of a Parquet file. Every
    other image has its own, ``ref.key``. Byte offsets and row groups do not enter, so that repacking a file between
    two runs moves no image to another slice.
    """
    match ref.inside:
        case Member(archive) if is_compressed(archive):
            return _digest(archive)
        case ImageCell(file, column, number):
            return _digest(f"{file}#{column}/{_slice_of(number)}")
    return ref.key


def is_sequential(ref: ImageRef) -> bool:
    """Return whether reading an image means reading its file from the beginning: compressed archives, and Parquet."""
    return isinstance(ref.inside, ImageCell) or (isinstance(ref.inside, Member) and is_compressed(ref.inside.archive))


def read_order(ref: ImageRef) -> tuple[str, int]:
    """Return a sort key: the archive or Parquet file, then the place in it. All other images have the same key."""
    match ref.inside:
        case Member(archive, offset):
            return archive, offset
        case ImageCell(file, _, number):
            return file, number
    return "", 0


def in_slice(part: Slice, ref: ImageRef) -> bool:
    """Return whether an image belongs to a slice. The first digits of its hash decide; the last ones draw its shard."""
    return int(slice_key(ref)[:KEY_DIGITS], 16) * part.of >> (4 * KEY_DIGITS) == part.number


def _slice_of(number: int) -> int:
    return (number - 1) // SLICE_ROWS


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
