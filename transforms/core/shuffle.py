"""Pack many small items into one Beam element, because a shuffle costs memory and time for each element.

The local runner holds a kilobyte for each element at every step. In a pack, a reference takes 20 to 200 bytes.
"""

from __future__ import annotations

import hashlib
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ..io.uris import display_uri
from .records import ImageRef, encode

# Items that are compared share a bucket, which must fit into memory. Of a billion pictures, a bucket has 250,000.
NUM_HASH_BUCKETS = 4096
# The number of items in a Packer before it packs them.
MAX_BUFFERED = 65_536

# A number, such as that of a bucket, and a pack of items.
Packed = tuple[int, bytes]


def pack(items: list[Any]) -> bytes:
    """Return items that can be pickled as bytes for ``unpack``.

    References, and pairs of a text and a reference, are packed as columns if they differ only in URI and file name.
    """
    return zlib.compress(pickle.dumps(_columns_of(items) or items, pickle.HIGHEST_PROTOCOL), 1)


def unpack(packed: bytes) -> list[Any]:
    """Return the items that ``pack`` packed, in their order."""
    found: list[Any] | tuple[Any, ...] = pickle.loads(zlib.decompress(packed))
    if isinstance(found, list):
        return found
    tasks, keys, uris, filenames = found
    refs = [ImageRef(uri, filename, tasks) for uri, filename in zip(uris, filenames, strict=True)]
    return refs if keys is None else list(zip(keys, refs, strict=True))


def _columns_of(items: list[Any]) -> tuple[Any, ...] | None:
    """Return the tasks that all references have, and columns of texts, URIs and file names; None if they differ more.

    The column of texts is None for references alone. Tasks are compared by identity, because equal tasks may differ in
    the types of their numbers.
    """
    if not items or type(items[0]) not in (ImageRef, tuple):
        return None
    is_keyed = type(items[0]) is tuple
    refs = [item[1] for item in items] if is_keyed else items
    if type(refs[0]) is not ImageRef:
        return None
    tasks = refs[0].tasks
    if not all(type(ref) is ImageRef and ref.tasks is tasks and ref[3:] == PLAIN for ref in refs):
        return None
    return tasks, [item[0] for item in items] if is_keyed else None, [ref[0] for ref in refs], [ref[1] for ref in refs]


# The fields of a reference after its tasks, if it has nothing but tasks.
PLAIN = ImageRef("", "")[3:]


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

    def add(self, number: int, item: Any) -> Iterable[Packed]:
        """Add an item to the group ``number``. If ``MAX_BUFFERED`` items are held then, return one pack per group."""
        self._groups.setdefault(number, []).append(item)
        self._held += 1
        return self.flush() if self._held >= MAX_BUFFERED else ()

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

    def process(self, item: Any) -> Iterable[Packed]:
        """Add an item to the Packer. If that makes ``MAX_BUFFERED`` items, return one pack per bucket."""
        return self._packer.add(self.bucket_of(item), item)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yield the packs of the remaining items."""
        yield from map(GlobalWindows.windowed_value, self._packer.flush())


def ref_bucket(ref: ImageRef) -> int:
    """Return the bucket of a reference, ``hash_bucket(ref.key)``."""
    digest = hashlib.sha256(encode(display_uri(ref.uri))).digest()
    return int.from_bytes(digest[:4], "big") % NUM_HASH_BUCKETS


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
