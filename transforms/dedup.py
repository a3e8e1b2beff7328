"""Pictures of the same bytes brought together: each is read once more than without, and named by what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from .fetch import Fetcher
from .homes import home_of, is_of_a_stream
from .load import LOAD_THREADS, Fetch
from .records import ImageRef

REFS_AT_ONCE = 256

Named = tuple[str, ImageRef]


class NameByBytes(beam.DoFn):
    """References to (sha256 of the bytes, reference), read in threads, in the global window.

    What can't be read is named by its key: it fails where it is annotated, and has its row there. What can only be read
    together with others stays with them.
    """

    def __init__(self, fetch: Fetch | None = None) -> None:
        self.fetch = fetch or Fetcher()
        self._gathered: list[ImageRef] = []

    def start_bundle(self) -> None:
        """Begin with none."""
        self._gathered = []

    def process(self, ref: ImageRef) -> Iterator[Named]:
        """Read as enough of them have come."""
        self._gathered.append(ref)
        if len(self._gathered) == REFS_AT_ONCE:
            yield from self._names()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Read the last of them."""
        yield from map(GlobalWindows.windowed_value, self._names())

    def _names(self) -> list[Named]:
        gathered, self._gathered = self._gathered, []
        with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="hash") as pool:
            return list(zip(pool.map(self._name, gathered), gathered, strict=True))

    def _name(self, ref: ImageRef) -> str:
        if ref.problem or is_of_a_stream(ref):
            return home_of(ref)
        try:
            return sha256(self.fetch(ref.uri)).hexdigest()
        except (OSError, ValueError):
            return ref.key
