"""What an output holds already: its published files, and the ids of their rows, in as few bytes as tell them apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ..core.shuffle import Packed, hash_bucket, pack, unpack_all
from ..output.files import kind_of
from ..output.layout import can_run_together, run_of_file
from ..output.reader import Reader, published

# Of the 32 bytes of an id, which go through a shuffle and do not compress. A false match takes the same 96 bits in the
# same of 4,096 buckets: with three billion ids on either side its chance is one in thirty million million.
ID_DIGITS, ID_BYTES = 64, 12
IDS_AT_ONCE = 65_536
# Ids that a worker holds before it packs them: 12 MiB. Few large packs cost less than many small ones.
IDS_HELD = 1 << 20


class PackedIds(NamedTuple):
    """The beginnings of ids, end to end, of rows in a file of ``errors/`` (none: they are as good as answered)."""

    failed_in: str
    ids: bytes

    def each(self) -> Iterator[bytes]:
        """One after the other."""
        return (self.ids[at : at + ID_BYTES] for at in range(0, len(self.ids), ID_BYTES))


def short_id(name: str) -> bytes:
    """What stands for an id of 64 hex digits.

    Raises:
        ValueError: it is none.
    """
    if len(name) != ID_DIGITS:
        raise ValueError(f"{name} is no id")
    return bytes.fromhex(name[: 2 * ID_BYTES])


class PackIds(beam.DoFn):
    """Published files to packs of the ids in them, by the buckets of their pictures.

    ``with_files`` tells of failures in which file they are, so that they can be taken out of there.
    """

    def __init__(self, with_files: bool) -> None:
        self.with_files = with_files

    def setup(self) -> None:
        """One client for all files."""
        self._reader = Reader()

    def start_bundle(self) -> None:
        """Begin with nothing."""
        self._buckets: dict[int, dict[str, bytearray]] = {}
        self._held = 0

    def process(self, path: str) -> Iterator[Packed]:
        """Read one file; pack what is held when that has become much."""
        failed_in = path if self.with_files and kind_of(path) == "errors" else ""
        for keys, names in read_ids(path, self._reader):
            for key, name in zip(keys, names, strict=True):
                try:
                    number, id = hash_bucket(key), short_id(name)
                except ValueError:
                    # A row that somebody else wrote: nothing that we ask has such an id.
                    continue
                self._buckets.setdefault(number, {}).setdefault(failed_in, bytearray()).extend(id)
            self._held += len(keys)
            if self._held >= IDS_HELD:
                yield from self._rest()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Pack the rest."""
        yield from map(GlobalWindows.windowed_value, self._rest())

    def _rest(self) -> Iterator[Packed]:
        while self._buckets:
            number, files = self._buckets.popitem()
            yield number, pack([PackedIds(failed_in, bytes(ids)) for failed_in, ids in files.items()])
        self._held = 0


def split_completed(packs: Iterable[bytes]) -> tuple[set[bytes], dict[bytes, list[str]]]:
    """The short ids in some packs: of rows that are done, and of failures with the files that they are in."""
    done: set[bytes] = set()
    failed: dict[bytes, list[str]] = {}
    for failed_in, ids in ((each.failed_in, each.each()) for each in unpack_all(packs)):
        if failed_in:
            for id in ids:
                failed.setdefault(id, []).append(failed_in)
        else:
            done.update(ids)
    return done, failed


def other_runs_parts(output: str, but_of: str) -> list[str]:
    """The published files of an output, data and errors, but for those of one run and of other slices of its cut.

    A run does not look at its own: a runner that plans it anew, for a lost worker, must come to the same shards. Other
    slices have other pictures.
    """
    paths = published(output, "*.parquet")
    runs = [run_of_file(FileSystems.split(path)[1]) for path in paths]
    return [
        path
        for path, run in zip(paths, runs, strict=True)
        if run is None or not (run == but_of or can_run_together(run, but_of))
    ]


def read_ids(path: str, reader: Reader) -> Iterator[tuple[list[str], list[str]]]:
    """The keys of the pictures and the ids of the rows of a published file, a batch at a time."""
    with reader.open(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(IDS_AT_ONCE, columns=["key", "id"]):
            yield batch["key"].to_pylist(), batch["id"].to_pylist()
