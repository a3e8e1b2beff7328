"""References as columns: many pictures that differ in URI and file name only, as one element of a pipeline."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...models.tasks import Task
from ..io.uris import display_uri, is_utf8
from .records import ImageRef

# The fields of a reference after its tasks, if it has nothing but tasks.
PLAIN = ImageRef("", "")[3:]
# In a URI without these, and of another scheme than ``data``, ``display_uri`` hides nothing.
_HIDDEN_MARKS = ("=", "@", "?", "&", "eyJ")
# The number of references that ``in_columns`` gathers.
MAX_BATCH_REFS = 16_384


class RefColumns(NamedTuple):
    """References to pictures. Row ``i`` stands for ``ImageRef(uris[i], END OF uris[i], tasks)``.

    Attributes:
        uris: the URIs, of type string. ``display_uri`` returns each unchanged.
        names: for each URI the bytes of its end that are the file name, int32.
        tasks: the tasks of each reference; empty if each gets the tasks of the job.
    """

    uris: pa.Array
    names: Any
    tasks: tuple[Task, ...] = ()

    @property
    def num_rows(self) -> int:
        """The number of references."""
        return len(self.uris)

    def refs(self) -> list[ImageRef]:
        """Return the references as objects."""
        tasks, (content, ends) = self.tasks, content_of(self.uris)
        places = zip(ends.tolist(), (ends[1:] - self.names).tolist(), ends[1:].tolist(), strict=False)
        if content.isascii():
            # Then a byte is a character.
            text = content.decode()
            return [ImageRef(text[start:end], text[name:end], tasks) for start, name, end in places]
        return [ImageRef(content[start:end].decode(), content[name:end].decode(), tasks) for start, name, end in places]

    def take(self, rows: Any) -> RefColumns:
        """Return the references at ``rows``, an array of row numbers or a mask."""
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        return self._replace(uris=self.uris.take(pa.array(rows)), names=self.names[rows])

    def slice(self, start: int, end: int) -> RefColumns:
        """Return the references from row ``start`` to the row before ``end``, without a copy."""
        return self._replace(uris=self.uris[start:end], names=self.names[start:end])

    def digests(self, suffix: bytes = b"") -> list[bytes]:
        """Return the sha256 of each URI followed by ``suffix``. Without a suffix, ``ImageRef.key`` begins with it."""
        content, ends = content_of(self.uris)
        return [sha256(content[start:end] + suffix).digest() for start, end in pairwise(ends.tolist())]

    def to_bytes(self) -> bytes:
        """Return the references, compressed, as bytes for ``from_bytes``."""
        content, ends = content_of(self.uris)
        # Pickled on their own, tasks are unpickled once for many parts.
        tasks = pickle.dumps(self.tasks, pickle.HIGHEST_PROTOCOL)
        parts = np.diff(ends).astype(np.uint32).tobytes(), self.names.tobytes(), content, tasks
        pickled = pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)
        return len(pickled).to_bytes(4, "big") + pa.compress(pickled, "zstd", asbytes=True)

    @classmethod
    def from_bytes(cls, packed: bytes) -> RefColumns:
        """Return the references that ``to_bytes`` returned as bytes."""
        size = int.from_bytes(packed[:4], "big")
        lengths, names, content, tasks = pickle.loads(pa.decompress(packed[4:], size, "zstd", asbytes=True))
        ends = np.zeros(len(lengths) // 4 + 1, np.int32)
        np.cumsum(np.frombuffer(lengths, np.uint32), out=ends[1:])
        uris = pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(content))
        return cls(uris, np.frombuffer(names, np.int32), _unpickle(tasks))

    def __reduce__(self) -> tuple[Any, ...]:
        # The local runner holds elements between two steps as pickled bytes.
        return RefColumns.from_bytes, (self.to_bytes(),)


@lru_cache(16)
def _unpickle(pickled: bytes) -> Any:
    return pickle.loads(pickled)


def content_of(texts: pa.Array) -> tuple[bytes, Any]:
    """Return the bytes of texts, end to end, and ``len(texts) + 1`` offsets: text ``i`` ends at offset ``i + 1``."""
    if not len(texts):
        return b"", np.zeros(1, np.int32)
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    return content[ends[0] : ends[-1]].to_pybytes() if content else b"", ends - ends[0]


def concat(parts: Sequence[RefColumns]) -> RefColumns:
    """Return the references of one or more parts with the same tasks."""
    if len(parts) == 1:
        return parts[0]
    uris = pa.concat_arrays([part.uris for part in parts])
    return parts[0]._replace(uris=uris, names=np.concatenate([part.names for part in parts]))


def in_columns(refs: Iterable[ImageRef | RefColumns]) -> Iterator[ImageRef | RefColumns]:
    """Yield references in another order: as columns where these can stand for them."""
    held: list[ImageRef] = []
    for ref in refs:
        if isinstance(ref, RefColumns) or ref.tasks or ref[3:] != PLAIN:
            yield ref
            continue
        held.append(ref)
        if len(held) == MAX_BATCH_REFS:
            yield from _split(held)
            held = []
    yield from _split(held)


def split_plain(refs: Iterable[ImageRef]) -> tuple[RefColumns | None, list[ImageRef]]:
    """Return the references that ``RefColumns`` can stand for, None if there are none, and all others."""
    others: list[ImageRef] = []
    columns: list[RefColumns] = []
    for part in in_columns(refs):
        if isinstance(part, ImageRef):
            others.append(part)
        else:
            columns.append(part)
    return concat(columns) if columns else None, others


def split_repeated(refs: RefColumns, others: Iterable[ImageRef]) -> tuple[RefColumns, list[ImageRef]]:
    """Return the references to pictures that no other one names, and the rest of ``refs`` as objects.

    Args:
        others: more references, which may name the same pictures.
    """
    shown = list(filter(is_utf8, {display_uri(ref.uri) for ref in others}))
    if not shown and pc.count_distinct(refs.uris).as_py() == refs.num_rows:
        return refs, []
    codes = refs.uris.dictionary_encode()
    counts = np.bincount(codes.indices.to_numpy(), minlength=len(codes.dictionary))
    if shown:
        is_named = pc.is_in(codes.dictionary, value_set=pa.array(shown, pa.string()))
        counts += is_named.to_numpy(zero_copy_only=False)
    is_single = counts[codes.indices.to_numpy()] == 1
    if is_single.all():
        return refs, []
    return refs.take(is_single), refs.take(~is_single).refs()


def each_ref(element: ImageRef | RefColumns) -> Iterable[ImageRef]:
    """Return the references of an element as objects."""
    return [element] if isinstance(element, ImageRef) else element.refs()


def _split(refs: list[ImageRef]) -> Iterator[ImageRef | RefColumns]:
    """Yield references with URI and file name only: as columns, or as they are if these can't stand for them."""
    is_shown = _is_shown("\n".join(ref.uri for ref in refs))
    fits = [
        ref[0].endswith(ref[1]) and (is_shown or (is_utf8(ref[0]) and display_uri(ref[0]) == ref[0])) for ref in refs
    ]
    if not all(fits):
        yield from (ref for ref, fit in zip(refs, fits, strict=True) if not fit)
        refs = [ref for ref, fit in zip(refs, fits, strict=True) if fit]
    if refs:
        names = [len(ref[1]) if ref[1].isascii() else len(ref[1].encode()) for ref in refs]
        yield RefColumns(pa.array([ref[0] for ref in refs], pa.string()), np.array(names, np.int32))


def _is_shown(text: str) -> bool:
    """Return whether one or more URIs are UTF-8, and lack all that ``display_uri`` hides."""
    return text.isascii() and not any(mark in text for mark in _HIDDEN_MARKS) and "data:" not in text.lower()
