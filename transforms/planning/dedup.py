"""Pictures of the same bytes brought together: each is read once more than without, and named by what is in it.

A name decides the shard, so a run must never give a picture two: one that could be read the first time and can't the
second would have a row in each of two shards, or in none. Runners may do again what they did, as Spark and Flink do
when a worker is lost. So names are written down as they are found, once, and whoever comes again takes those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsSingleton, PCollection

from ..core.errors import output_errors
from ..core.records import ImageRef
from ..core.shuffle import NUM_HASH_BUCKETS, Packed, unpack_all
from ..core.summary import Count
from ..images.fetch import Fetcher
from ..images.prefetch import LOAD_THREADS
from ..output.commit import create_exclusive, delete_commits, read_commit
from ..output.files import temporary_folder
from .locality import is_sequential, shard_key

# Of so many pictures the names are in one file: few enough to be spread over workers, enough to be worth a request.
NAMES_A_FILE = 500
REFS_AT_ONCE = 4096

Named = tuple[str, ImageRef]


class KeyByContentHash(beam.PTransform[PCollection[Packed], PCollection[Named]]):
    """Packs of named references, by bucket, to (sha256 of the bytes, reference), the same in every attempt of a run.

    What can't be read is named by its key: it fails where it is annotated, and has its row there. What can only be read
    together with others stays with them. ``counts`` is one ``Count``, which does not change either.
    """

    def __init__(self, fetch: Fetcher, output: str, run: str, counts: PCollection[Count]) -> None:
        super().__init__()
        self.fetch, self.output, self.run, self.counts = fetch, output, run, counts

    def expand(self, packs: PCollection[Packed]) -> PCollection[Named]:
        """Group by the file that the names are in, so that each is read and written by one worker."""
        return (
            packs
            | "By file" >> beam.Map(_by_file, AsSingleton(self.counts)).with_output_types(Packed)
            | "Group" >> beam.GroupByKey()
            | "Read" >> beam.FlatMap(assign_content_keys, self.fetch, self.output, self.run)
        )


def assign_content_keys(group: tuple[int, Iterable[bytes]], fetch: Fetcher, output: str, run: str) -> Iterator[Named]:
    """The pictures of one file of names, each with its own: as it is written there, or else as it is read now.

    One that came to be listed after they were written has the name of its place.
    """
    number, packs = group
    refs = [ref for _, ref in unpack_all(packs)]
    path = f"{_stem(output, run)}{number}"
    with output_errors(output):
        written = read_commit(path)
    if written is None:
        names = _read_all(refs, fetch)
        with output_errors(output):
            written = create_exclusive(path, json.dumps(names).encode())
    settled: dict[str, str] = json.loads(written) if written else {}
    for ref in refs:
        yield settled.get(ref.key) or shard_key(ref), ref


def delete_content_keys(output: str, run: str) -> None:
    """Remove the names of a run that has ended."""
    delete_commits(_stem(output, run))


def _by_file(packed: Packed, count: Count) -> Packed:
    bucket, pack = packed
    return bucket % max(1, min(NUM_HASH_BUCKETS, math.ceil(count.pictures / NAMES_A_FILE))), pack


def _stem(output: str, run: str) -> str:
    return FileSystems.join(temporary_folder(output), f"{run}.names-")


def _read_all(refs: Sequence[ImageRef], fetch: Fetcher) -> dict[str, str]:
    """Names by the keys of pictures, each of which is read."""
    names: dict[str, str] = {}
    with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="hash") as pool:
        for start in range(0, len(refs), REFS_AT_ONCE):
            some = refs[start : start + REFS_AT_ONCE]
            read = pool.map(lambda ref: _name(ref, fetch), some)
            names.update(zip((ref.key for ref in some), read, strict=True))
    return names


def _name(ref: ImageRef, fetch: Fetcher) -> str:
    if ref.problem or is_sequential(ref):
        return shard_key(ref)
    try:
        return sha256(fetch(ref.location)).hexdigest()
    except (OSError, ValueError):
        return ref.key
