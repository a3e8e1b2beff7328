"""Find the rows of pictures that were replaced in place, and remove them, so that their requests are done again.

A row has the sha256 of the bytes that were annotated. So the pictures are read again and their bytes are compared. The
time of a file says less: `cp -p`, `mv`, `rsync -a` and archives keep an old time for new bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.utils.shared import Shared

from ...core.records import ImageRef, Job
from ...core.shuffle import NUM_HASH_BUCKETS, PackBy, Packed, hash_bucket, pack, unpack_all
from ...images.fetch import Fetcher
from ...images.prefetch import LOAD_THREADS
from ...io.object_stores.file_systems import FileSystems
from ...output.layout import DATA, kind_of
from ..completed import ID_BYTES, MAX_BATCH_ROWS, other_runs_parts, short_id
from ..input_rows import by_picture, rows_of
from ..locality import read_order, shard_key
from .requeue import remove_group

# Groups of pictures outside of archives and Parquet files. One worker reads a group.
NUM_GROUPS = 256
UNREAD = "unread"


class Changed(NamedTuple):
    """``rows`` that were removed, because their picture has changed. ``unread`` pictures with rows, which were kept."""

    rows: int = 0
    unread: int = 0


class PublishedRow(NamedTuple):
    """A row of ``data/``: the first ``ID_BYTES`` bytes of its id and of its picture's sha256, and its file."""

    key: str
    id: bytes
    digest: bytes
    path: str


class RemoveChanged(beam.PTransform[PCollection[str], PCollection[Changed]]):
    """Remove the rows of changed pictures from the published files of an output, and yield one ``Changed``.

    The input is the path of the output, once it is locked. Only rows of requests that the job makes are removed. They
    are removed before any request is sent. If the run dies in between, the next run sends the requests.

    Args:
        refs: packs of references by hash bucket.
        fetch: reads the pictures.
    """

    def __init__(self, job: Job, output: str, refs: PCollection[Packed], fetch: Fetcher) -> None:
        super().__init__()
        self.job, self.output, self.refs, self.fetch = job, output, refs, fetch

    def expand(self, locked: PCollection[str]) -> PCollection[Changed]:
        """Join references and rows by hash bucket, read the pictures of the rows, and rewrite the files."""
        rows = (
            locked
            | "List data" >> beam.FlatMap(_list_data, self.job.run)
            | "Spread data" >> beam.Reshuffle()
            | "Read rows" >> beam.ParDo(_ReadRows())
            | "Pack rows" >> beam.ParDo(PackBy(_bucket_of)).with_output_types(Packed)
        )
        compared = (
            (self.refs, rows)
            | "Join rows" >> beam.CoGroupByKey()
            | "Pictures with rows" >> beam.FlatMap(_pictures_with_rows, self.job).with_output_types(tuple[str, bytes])
            | "Group pictures" >> beam.GroupByKey()
            | "Compare" >> beam.ParDo(_Compare(self.fetch)).with_outputs(UNREAD, main="changed")
        )
        removed = (
            compared["changed"]
            | "Rows by file" >> beam.GroupByKey()
            | "Remove rows" >> beam.Map(_remove, self.output, self.job.run)
        )
        return (removed, compared[UNREAD]) | beam.Flatten() | "Sum changed" >> beam.CombineGlobally(_sum_changed)


class _ReadRows(beam.DoFn):
    """Yield a ``PublishedRow`` for each row of a published file."""

    def process(self, path: str) -> Iterator[PublishedRow]:
        with FileSystems.open(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(MAX_BATCH_ROWS, columns=["key", "id", "sha256"]):
                for row in batch.to_pylist():
                    try:
                        id, digest = short_id(row["id"]), short_id(row["sha256"])
                        hash_bucket(row["key"])
                    except ValueError:
                        # Another program wrote this row. No request of ours has such an id.
                        continue
                    yield PublishedRow(row["key"], id, digest, path)


class _Compare(beam.DoFn):
    """Read the pictures of one group, and yield (file, id) for each row whose picture has other bytes now.

    The output ``UNREAD`` is a ``Changed`` for each picture that cannot be read. Its rows stay: the cause may be the
    network, and the answers may be paid.
    """

    def __init__(self, fetch: Fetcher) -> None:
        self.fetch, self._shared = fetch, Shared()

    def setup(self) -> None:
        self.fetch = self._shared.acquire(lambda: self.fetch)

    def process(self, group: tuple[str, Iterable[bytes]]) -> Iterator[Any]:
        pictures = sorted(unpack_all(group[1]), key=lambda picture: read_order(picture[0]))
        with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="compare") as pool:
            digests = pool.map(lambda picture: _digest_of(picture[0], self.fetch), pictures)
            for (_, rows), digest in zip(pictures, digests, strict=True):
                if digest is None:
                    yield TaggedOutput(UNREAD, Changed(unread=1))
                else:
                    yield from ((row.path, id) for id, row in rows if row.digest != digest)


def _list_data(output: str, run: str) -> list[str]:
    return [path for path in other_runs_parts(output, run) if kind_of(path) == DATA]


def _bucket_of(row: PublishedRow) -> int:
    return hash_bucket(row.key)


def _pictures_with_rows(
    group: tuple[int, tuple[Iterable[bytes], Iterable[bytes]]], job: Job
) -> Iterator[tuple[str, bytes]]:
    """Yield a group and a pack of (reference, [(id, row)]) for those pictures of one hash bucket that have rows."""
    number, (packs, row_packs) = group
    rows: dict[bytes, list[PublishedRow]] = {}
    for row in unpack_all(row_packs):
        rows.setdefault(row.id, []).append(row)
    by_group: dict[str, list[Any]] = {}
    for refs in by_picture(packs) if rows else ():
        ref, ids = rows_of(refs, job)
        if found := [(id, row) for id in ids for row in rows.get(short_id(id), ())]:
            by_group.setdefault(_group_of(ref, number), []).append((ref, found))
    yield from ((name, pack(pictures)) for name, pictures in by_group.items())


def _group_of(ref: ImageRef, bucket: int) -> str:
    """Return the group of a picture: that of its file if the file is read from its beginning, else one of many."""
    return shard_key(ref) if ref.inside else str(bucket * NUM_GROUPS // NUM_HASH_BUCKETS)


def _digest_of(ref: ImageRef, fetch: Fetcher) -> bytes | None:
    """Return the first bytes of the sha256 of a picture's file, as in ``PublishedRow``; None if it can't be read."""
    if ref.has_nothing_to_ask:
        return None
    try:
        return sha256(fetch(ref.location)).digest()[:ID_BYTES]
    except (OSError, ValueError):
        return None


def _remove(path_and_ids: tuple[str, Iterable[str]], output: str, run: str) -> Changed:
    return Changed(rows=remove_group(path_and_ids, output, run))


def _sum_changed(parts: Iterable[Changed]) -> Changed:
    return Changed(*(sum(column) for column in zip(Changed(), *parts, strict=True)))
