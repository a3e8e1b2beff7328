"""Pack many small items into one Beam element, because a shuffle costs memory and time for each element.

The local runner holds a kilobyte for each element at every step. In a pack, a reference takes 20 to 200 bytes.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from .records import ImageRef

# Items that are compared share a bucket, which must fit into memory. Of a billion pictures, a bucket has 250,000.
NUM_HASH_BUCKETS = 4096
# The number of items in a Packer before it packs them.
MAX_BUFFERED = 65_536

# A number, such as that of a bucket, and a pack of items.
Packed = tuple[int, bytes]


def pack(items: list[Any]) -> bytes:
    """Return items that can be pickled as bytes for ``unpack``."""
    return zlib.compress(pickle.dumps(items, pickle.HIGHEST_PROTOCOL), 1)


def unpack(packed: bytes) -> list[Any]:
    """Return the items that ``pack`` packed, in their order."""
    items: list[Any] = pickle.loads(zlib.decompress(packed))
    return items


def unpack_all(packs: Iterable[bytes]) -> Iterator[Any]:
    """Yield the items of many packs. Only one pack is in memory at a time."""
    for packed in packs:
        yield from unpack(packed)


def hash_bucket(key: str) -> int:
    """Return the bucket, 0 to ``NUM_HASH_BUCKETS - 1``, of a string that starts with 8 hex digits of a hash."""
    return int(key[:8], 16) % NUM_HASH_BUCKETS


class Packer:
    """Group items by number, and pack all groups whenever ``MAX_BUFFERED`` items are held."""

    def __init__(self) -> None:
        self._groups: dict[int, list[Any]] = {}
        self._held = 0

    def add(self, number: int, item: Any) -> Iterator[Packed]:
        """Add an item to the group ``number``. If ``MAX_BUFFERED`` items are held then, yield one pack per group."""
        self._groups.setdefault(number, []).append(item)
        self._held += 1
        if self._held >= MAX_BUFFERED:
            yield from self.flush()

    def flush(self) -> Iterator[Packed]:
        """Yield one pack per group, and drop all items."""
        groups, self._groups, self._held = self._groups, {}, 0
        for number, group in groups.items():
            yield number, pack(group)


class PackBy(beam.DoFn):
    """Pack items by ``bucket_of(item)`` into elements of ``Packed``. The packs are in the global window."""

    def __init__(self, bucket_of: Callable[[Any], int]) -> None:
        self.bucket_of = bucket_of
        self._packer = Packer()

    def start_bundle(self) -> None:
        """Start with an empty Packer."""
        self._packer = Packer()

    def process(self, item: Any) -> Iterator[Packed]:
        """Add an item to the Packer. If that makes ``MAX_BUFFERED`` items, yield one pack per bucket."""
        yield from self._packer.add(self.bucket_of(item), item)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yield the packs of the remaining items."""
        yield from map(GlobalWindows.windowed_value, self._packer.flush())


def ref_bucket(ref: ImageRef) -> int:
    """Return the bucket of a reference, ``hash_bucket(ref.key)``."""
    return hash_bucket(ref.key)


class DistinctRefs(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """Keep one reference per ``ImageRef.key``: that with the alphabetically first ``filename``; equal names: any.

    References to what is skipped are compared only with those of the same kind.
    """

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[ImageRef]:
        """Return the references that are kept, grouped by bucket to compare them."""
        packs = refs | "Pack" >> beam.ParDo(PackBy(ref_bucket)).with_output_types(Packed)
        return packs | "Group" >> beam.GroupByKey() | "First of each" >> beam.FlatMapTuple(_first_of_each)


def _first_of_each(_: int, packs: Iterable[bytes]) -> Iterator[ImageRef]:
    first: dict[tuple[str, str], ImageRef] = {}
    for ref in unpack_all(packs):
        # A file may be called "*.txt", as the files of that ending are that are skipped.
        key = ref.key, ref.skipped.kind if ref.skipped else ""
        if key not in first or ref.filename < first[key].filename:
            first[key] = ref
    yield from first.values()
