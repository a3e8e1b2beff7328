"""Pack many small items into one Beam element, because a shuffle costs memory and time for each element.

The local runner holds a kilobyte for each element at every step. In a pack, a reference takes 20 to 200 bytes.
"""

from __future__ import annotations

import hashlib
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ..io.uris import display_uri
from .records import ImageRef, encode
from .ref_columns import PLAIN, RefColumns, concat, split_plain, split_repeated

# Items that are compared share a bucket, which must fit into memory. Of a billion pictures, a bucket has 250,000.
NUM_HASH_BUCKETS = 4096
# The number of items in a Packer before it packs them.
MAX_BUFFERED = 65_536
# The references as columns in a ColumnsPacker before it packs them: 64 MB, if a URI has 60 bytes.
MAX_BUFFERED_ROWS = 1 << 20
# Packs of columns begin with this byte, with which no stream of zlib begins.
COLUMNS = b"C"

# A number, such as that of a bucket, and a pack of items.
Packed = tuple[int, bytes]


def pack(items: list[Any]) -> bytes:
    """Return items that can be pickled as bytes for ``unpack``.

    References, and pairs of a text and a reference, are packed as columns if they differ only in URI and file name.
    """
    return zlib.compress(pickle.dumps(_columns_of(items) or items, pickle.HIGHEST_PROTOCOL), 1)


def pack_columns(refs: RefColumns) -> bytes:
    """Return references as bytes for ``unpack`` and ``unpack_parts``."""
    return COLUMNS + refs.to_bytes()


def unpack(packed: bytes) -> list[Any]:
    """Return the items that ``pack`` or ``pack_columns`` packed, in their order."""
    if packed[:1] == COLUMNS:
        return _unpack_columns(packed).refs()
    found: list[Any] | tuple[Any, ...] = pickle.loads(zlib.decompress(packed))
    if isinstance(found, list):
        return found
    tasks, keys, uris, filenames = found
    refs = [ImageRef(uri, filename, tasks) for uri, filename in zip(uris, filenames, strict=True)]
    return refs if keys is None else list(zip(keys, refs, strict=True))


def unpack_parts(packs: Iterable[bytes]) -> tuple[list[RefColumns], list[Any]]:
    """Return the references as columns and all other items that are in packs."""
    columns: list[RefColumns] = []
    items: list[Any] = []
    for packed in packs:
        if packed[:1] == COLUMNS:
            columns.append(_unpack_columns(packed))
        else:
            items += unpack(packed)
    return columns, items


def _unpack_columns(packed: bytes) -> RefColumns:
    return RefColumns.from_bytes(packed[1:])


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


class ColumnsPacker:
    """Group references as columns by number, and pack all groups whenever ``MAX_BUFFERED_ROWS`` are held."""

    def __init__(self) -> None:
        self._parts: list[tuple[RefColumns, Any]] = []
        self._held = 0

    def add(self, refs: RefColumns, numbers: Any) -> Iterable[Packed]:
        """Add references with the same tasks as all before. If enough are held then, return one pack per number.

        Args:
            numbers: the number of the group of each reference.
        """
        if refs.num_rows:
            self._parts.append((refs, numbers))
        self._held += refs.num_rows
        return self.flush() if self._held >= MAX_BUFFERED_ROWS else ()

    def flush(self) -> Iterator[Packed]:
        """Yield one pack per group, and drop all references."""
        parts, self._parts, self._held = self._parts, [], 0
        if not parts:
            return
        refs, numbers = concat([part for part, _ in parts]), np.concatenate([each for _, each in parts])
        del parts
        order = np.argsort(numbers, kind="stable")
        refs, numbers = refs.take(order), numbers[order]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
            yield int(numbers[start]), pack_columns(refs.slice(start, end))


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


class PackRefs(beam.DoFn):
    """Pack references by ``ref_bucket`` into elements of ``Packed``, those with URI and file name only as columns.

    The input may have references as columns too, without tasks. The packs are in the global window.
    """

    def start_bundle(self) -> None:
        """Start with empty packers."""
        self._refs: list[ImageRef] = []
        self._packer, self._columns = Packer(), ColumnsPacker()

    def process(self, element: ImageRef | RefColumns) -> Iterator[Packed]:
        """Add references. If that makes enough of them, yield one pack per bucket."""
        if isinstance(element, RefColumns):
            yield from self._add(element)
        else:
            self._refs.append(element)
            if len(self._refs) >= MAX_BUFFERED:
                yield from self._add_refs()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yield the packs of the remaining references."""
        packs = chain(self._add_refs(), self._packer.flush(), self._columns.flush())
        yield from map(GlobalWindows.windowed_value, packs)

    def _add_refs(self) -> Iterator[Packed]:
        refs, self._refs = self._refs, []
        columns, others = split_plain(refs)
        if columns:
            yield from self._add(columns)
        for ref in others:
            yield from self._packer.add(ref_bucket(ref), ref)

    def _add(self, refs: RefColumns) -> Iterable[Packed]:
        return self._columns.add(refs, remainders(refs.digests(), 4, NUM_HASH_BUCKETS))


def remainders(digests: list[bytes], size: int, divisor: int) -> Any:
    """Return the remainders of the first ``size`` bytes, an even number, of sha256 digests as big-endian numbers.

    Args:
        divisor: at most 2 ** 47.
    """
    digits = np.frombuffer(b"".join(digests), ">u2").reshape(-1, 16)[:, : size // 2].astype(np.uint64)
    found = np.zeros(len(digests), np.uint64)
    for column in digits.T:
        found = (found * np.uint64(1 << 16) + column) % np.uint64(divisor)
    return found.astype(np.int64)


def ref_bucket(ref: ImageRef) -> int:
    """Return the bucket of a reference, ``hash_bucket(ref.key)``."""
    digest = hashlib.sha256(encode(display_uri(ref.uri))).digest()
    return int.from_bytes(digest[:4], "big") % NUM_HASH_BUCKETS


class DistinctRefs(beam.PTransform[PCollection[Any], PCollection[Any]]):
    """Keep one reference per ``ImageRef.key``: that with the alphabetically first ``filename``; equal names: any.

    References to what is skipped are compared only with those of the same kind. Input and output may have references
    as columns.
    """

    def expand(self, refs: PCollection[Any]) -> PCollection[Any]:
        """Return the references that are kept, grouped by bucket to compare them."""
        packs = refs | "Pack" >> beam.ParDo(PackRefs()).with_output_types(Packed)
        return packs | "Group" >> beam.GroupByKey() | "First of each" >> beam.FlatMapTuple(_first_of_each)


def _first_of_each(_: int, packs: Iterable[bytes]) -> Iterator[ImageRef | RefColumns]:
    columns, refs = unpack_parts(packs)
    if columns:
        once, repeated = split_repeated(concat(columns), refs)
        refs += repeated
        yield once
    first: dict[tuple[str, str], ImageRef] = {}
    for ref in refs:
        # A file may be called "*.txt", as the files of that ending are that are skipped.
        key = ref.key, ref.skipped.kind if ref.skipped else ""
        if key not in first or ref.filename < first[key].filename:
            first[key] = ref
    yield from first.values()
