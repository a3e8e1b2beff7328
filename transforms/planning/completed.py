"""Find the requests that an output has rows of already, by the ids in its published files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ..core.records import KEY_DIGITS
from ..core.shuffle import NUM_HASH_BUCKETS, Packed, pack, unpack_all
from ..io.object_stores.file_systems import FileSystems
from ..output.layout import ERRORS, can_run_together, kind_of, run_of_part
from ..output.reader import published

# An id is 32 bytes, written as 64 hex digits. Only the first 12 bytes go through the shuffle, because ids do not
# compress. With 3 billion ids on both sides, the probability of a collision inside one of 4,096 buckets is about 3e-14.
ID_DIGITS, ID_BYTES = 64, 12
ID_TYPE = pa.binary(ID_BYTES)
MAX_BATCH_ROWS = 65_536
# Ids that a worker holds before it packs them: 12 MiB. Few large packs cost less than many small ones.
MAX_HELD_IDS = 1 << 20


# The number that a character means as a hex digit; 255 if it is none.
_HEX = np.full(256, 255, np.uint8)
_HEX[list(b"0123456789abcdef")] = np.arange(16)
_HEX[list(b"ABCDEF")] = np.arange(10, 16)


class PackedIds(NamedTuple):
    """Short ids of ``ID_BYTES`` bytes each, end to end.

    ``failed_in`` is the file in ``errors/`` that has their rows. It is empty if their rows are in ``data/``.
    """

    failed_in: str
    ids: bytes

    def each(self) -> Iterator[bytes]:
        """Return an iterator over the short ids."""
        return (self.ids[at : at + ID_BYTES] for at in range(0, len(self.ids), ID_BYTES))


def short_id(row_id: str) -> bytes:
    """Return the first ``ID_BYTES`` bytes of an id of 64 hex digits.

    Raises:
        ValueError: if the text has another length, or other characters in that part.
    """
    if len(row_id) != ID_DIGITS:
        raise ValueError(f"{row_id} is not an id of {ID_DIGITS} hex digits")
    return bytes.fromhex(row_id[: 2 * ID_BYTES])


class PackIds(beam.DoFn):
    """Read the ids in published files, and yield packs of ``PackedIds`` by the hash bucket of the image.

    Ids in ``errors/`` are packed with the path of their file, so that the rows can be counted and removed.
    """

    def start_bundle(self) -> None:
        """Begin without ids."""
        # By file: the hash buckets of images, and their short ids. The file is empty for rows in ``data/``.
        self._found: dict[str, list[tuple[Any, Any]]] = {}
        self._held = 0

    def process(self, path: str) -> Iterator[Packed]:
        """Read the ids of one published Parquet file, and hold them.

        If ``MAX_HELD_IDS`` or more ids are held, yield them in packs and hold none. ``finish_bundle`` yields the rest.
        """
        found = self._found.setdefault(path if kind_of(path) == ERRORS else "", [])
        for keys, row_ids in read_ids(path):
            found.append(bucketed_ids(keys, row_ids))
            self._held += len(keys)
            if self._held >= MAX_HELD_IDS:
                yield from self._pack_all()
                found = self._found.setdefault(path if kind_of(path) == ERRORS else "", [])

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yield packs of all ids that are left."""
        yield from map(GlobalWindows.windowed_value, self._pack_all())

    def _pack_all(self) -> Iterator[Packed]:
        found, self._found, self._held = self._found, {}, 0
        packs: dict[int, list[PackedIds]] = {}
        while found:
            failed_in, parts = found.popitem()
            for number, ids in by_bucket(parts):
                packs.setdefault(number, []).append(PackedIds(failed_in, ids))
        while packs:
            number, ids_of_files = packs.popitem()
            yield number, pack(ids_of_files)


def bucketed_ids(keys: pa.Array, row_ids: pa.Array) -> tuple[Any, Any]:
    """Return the hash buckets of the images of rows, (rows,), and the short ids of the rows, (rows, ``ID_BYTES``).

    Left out are rows that another program wrote: their key does not begin with 8 hex digits, or their id is not one of
    64 hex digits. No request of ours has such an id.
    """
    if not len(keys):
        return np.zeros(0, np.uint32), np.zeros((0, ID_BYTES), np.uint8)
    key_digits, has_key = _digits(keys, KEY_DIGITS, 8)
    id_digits, has_id = _digits(row_ids, ID_DIGITS, 2 * ID_BYTES)
    ours = has_key & has_id
    if not ours.all():
        key_digits, id_digits = key_digits[ours], id_digits[ours]
    buckets = (key_digits.astype(np.uint32) @ (16 ** np.arange(7, -1, -1, dtype=np.uint32))) % NUM_HASH_BUCKETS
    return buckets, id_digits[:, ::2] << 4 | id_digits[:, 1::2]


def by_bucket(parts: list[tuple[Any, Any]]) -> Iterator[tuple[int, bytes]]:
    """Yield each hash bucket in parts of ``bucketed_ids`` once, with its short ids, end to end, in their order."""
    buckets = np.concatenate([numbers for numbers, _ in parts]) if parts else np.zeros(0, np.uint32)
    if not len(buckets):
        return
    order = np.argsort(buckets, kind="stable")
    numbers, starts = np.unique(buckets[order], return_index=True)
    ids = np.concatenate([each for _, each in parts])[order].tobytes()
    ends = [*(starts[1:] * ID_BYTES).tolist(), len(ids)]
    for number, start, end in zip(numbers.tolist(), (starts * ID_BYTES).tolist(), ends, strict=True):
        yield number, ids[start:end]


def _digits(texts: pa.Array, length: int, first: int) -> tuple[Any, Any]:
    """Return the first hex digits of texts as numbers, (rows, ``first``), and whether each text has them, (rows,).

    A text has them if it has ``length`` bytes that begin with ``first`` hex digits. The digits of others are 0.
    """
    texts = texts.cast(pa.string())
    fits = pc.fill_null(pc.equal(pc.binary_length(texts), length), False)
    chosen = pc.if_else(fits, texts, "0" * length).cast(pa.string())
    content, offset = chosen.buffers()[2], chosen.offset
    start = np.frombuffer(chosen.buffers()[1], np.int32, len(chosen) + 1, offset * 4)[0]
    characters = np.frombuffer(content, np.uint8, len(chosen) * length, start).reshape(len(chosen), length)
    digits = _HEX[characters[:, :first]]
    is_hex: Any = np.all(digits < 16, axis=1)
    return np.where(is_hex[:, None], digits, 0), is_hex & fits.to_numpy(zero_copy_only=False)


def split_completed(packs: Iterable[bytes]) -> tuple[set[bytes], dict[bytes, list[str]]]:
    """Unpack short ids. Return those of rows in ``data/``, and those of failures with the files of their rows."""
    completed: set[bytes] = set()
    failed: dict[bytes, list[str]] = {}
    for failed_in, ids in ((each.failed_in, each.each()) for each in unpack_all(packs)):
        if failed_in:
            for id in ids:
                failed.setdefault(id, []).append(failed_in)
        else:
            completed.update(ids)
    return completed, failed


class CompletedIds:
    """The short ids of one hash bucket: as columns, and on demand as objects.

    Attributes:
        answered: the ids of rows in ``data/``, as fixed-size binary.
        failed: the ids of rows in ``errors/``, as fixed-size binary.
    """

    def __init__(self, packs: Iterable[bytes]) -> None:
        self._packs = list(packs)
        parts: list[PackedIds] = list(unpack_all(self._packs))
        self.answered = id_column(b"".join(part.ids for part in parts if not part.failed_in))
        self.failed = id_column(b"".join(part.ids for part in parts if part.failed_in))

    @cached_property
    def split(self) -> tuple[set[bytes], dict[bytes, list[str]]]:
        """The result of ``split_completed``."""
        return split_completed(self._packs)


def id_column(ids: bytes) -> pa.Array:
    """Return short ids, which are given end to end, as an array of fixed-size binary."""
    return pa.FixedSizeBinaryArray.from_buffers(ID_TYPE, len(ids) // ID_BYTES, [None, pa.py_buffer(ids)])


def is_in(ids: pa.Array, others: pa.Array) -> Any:
    """Return for each id whether it is one of ``others``, as an array of NumPy."""
    if not len(others):
        return np.zeros(len(ids), bool)
    return pc.is_in(ids, value_set=others).to_numpy(zero_copy_only=False)


def other_runs_parts(output: str, run: str) -> list[str]:
    """Return the published files of an output, without those of ``run`` and of other slices that run together with it.

    Files of ``run`` are left out because a runner may plan the run again after it lost a worker. The second plan must
    have the same shards as the first. Other slices have other images.
    """
    paths = published(output, "*.parquet")
    owners = [run_of_part(FileSystems.split(path)[1]) for path in paths]
    return [
        path
        for path, owner in zip(paths, owners, strict=True)
        if owner is None or not (owner == run or can_run_together(owner, run))
    ]


def read_ids(path: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield the image keys and the ids of a published file's rows, in batches of at most ``MAX_BATCH_ROWS`` rows."""
    with FileSystems.open(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(MAX_BATCH_ROWS, columns=["key", "id"]):
            yield batch["key"], batch["id"]
