"""Many small things as one element: what goes through a shuffle is packed, or the local runner's memory grows by each.

A reference of its own costs Beam a kilobyte at every step and half the time of planning; in a pack it costs some bytes.
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

# Things that meet lie in the same bucket, which must fit into memory: a quarter of a million pictures, of a billion.
NUM_HASH_BUCKETS = 4096
# Things that a worker holds before it packs them.
MAX_BUFFERED = 65_536

Packed = tuple[int, bytes]


def pack(things: list[Any]) -> bytes:
    """Things that can be pickled, as bytes."""
    return zlib.compress(pickle.dumps(things, pickle.HIGHEST_PROTOCOL), 1)


def unpack(packed: bytes) -> list[Any]:
    """The things again."""
    things: list[Any] = pickle.loads(zlib.decompress(packed))
    return things


def unpack_all(packs: Iterable[bytes]) -> Iterator[Any]:
    """The things of many packs, one pack at a time."""
    for packed in packs:
        yield from unpack(packed)


def hash_bucket(key: str) -> int:
    """The bucket of a picture, by its key."""
    return int(key[:8], 16) % NUM_HASH_BUCKETS


class Packer:
    """Gathers things by number, and packs all that it holds when that has become much."""

    def __init__(self) -> None:
        self._things: dict[int, list[Any]] = {}
        self._held = 0

    def add(self, number: int, thing: Any) -> Iterator[Packed]:
        """Take one more."""
        self._things.setdefault(number, []).append(thing)
        self._held += 1
        if self._held >= MAX_BUFFERED:
            yield from self.rest()

    def rest(self) -> Iterator[Packed]:
        """All that is held."""
        things, self._things, self._held = self._things, {}, 0
        for number, group in things.items():
            yield number, pack(group)


class PackBy(beam.DoFn):
    """Things to packs by their bucket, which ``number`` tells; packs are in the global window."""

    def __init__(self, number: Callable[[Any], int]) -> None:
        self.number = number
        self._packer = Packer()

    def start_bundle(self) -> None:
        """Begin with nothing."""
        self._packer = Packer()

    def process(self, thing: Any) -> Iterator[Packed]:
        """Hold it, or pack what is held."""
        yield from self._packer.add(self.number(thing), thing)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Pack the rest."""
        yield from map(GlobalWindows.windowed_value, self._packer.rest())


def ref_bucket(ref: ImageRef) -> int:
    """The bucket of a reference."""
    return hash_bucket(ref.key)


class DistinctRefs(beam.PTransform[PCollection[ImageRef], PCollection[ImageRef]]):
    """Of references to one picture that first by name; they come out spread over the workers."""

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[ImageRef]:
        """Bring those together that may be the same, in packs."""
        packs = refs | "Pack" >> beam.ParDo(PackBy(ref_bucket)).with_output_types(Packed)
        return packs | "Group" >> beam.GroupByKey() | "First of each" >> beam.FlatMapTuple(_first_of_each)


def _first_of_each(_: int, packs: Iterable[bytes]) -> Iterator[ImageRef]:
    first: dict[str, ImageRef] = {}
    for ref in unpack_all(packs):
        key = ref.key
        if key not in first or ref.filename < first[key].filename:
            first[key] = ref
    yield from first.values()
