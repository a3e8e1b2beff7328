"""Key images by their content, so that images of the same bytes get into one shard and are annotated once.

Each image is read once more for this. The key determines the shard, so an image must have the same key in all attempts
of a run. An image that can be read the first time and not the second time would otherwise have a row in two shards, or
in none. Spark and Flink repeat steps when a worker is lost. So the keys are written to files, each of which is created
once, and every later attempt reads the keys from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection

from ..core.errors import output_errors
from ..core.records import ImageRef
from ..core.shuffle import NUM_HASH_BUCKETS, Packed, unpack_all
from ..core.summary import Count
from ..images.fetch import Fetcher
from ..images.prefetch import LOAD_THREADS
from ..output.commit import create_exclusive, delete_all_exclusive, read_exclusive
from ..output.layout import content_keys_prefix
from .locality import is_sequential, shard_key

# Images whose keys are in one file: few enough to spread over workers, and enough to be worth a request.
IMAGES_PER_FILE = 500
# Images that are submitted to the threads at once.
MAX_BATCH_REFS = 4096

KeyedRef = tuple[str, ImageRef]


class KeyByContentHash(beam.PTransform[PCollection[Packed], PCollection[KeyedRef]]):
    """Replace packs of keyed references, by hash bucket, by references that are keyed by the sha256 of their bytes.

    An image that cannot be read is keyed by its path, and fails when it is annotated. An image in a compressed archive
    or a Parquet file keeps the shard key of its neighbours and is not read. ``counts`` is one ``Count``, the same in
    all attempts of the run.
    """

    def __init__(self, fetch: Fetcher, output: str, run: str, counts: PCollection[Count]) -> None:
        super().__init__()
        self.fetch, self.output, self.run, self.counts = fetch, output, run, counts

    def expand(self, packs: PCollection[Packed]) -> PCollection[KeyedRef]:
        """Group the packs by the file of their keys, so that one worker reads and writes each file."""
        return (
            packs
            | "By file" >> beam.Map(_by_file, AsSingleton(self.counts)).with_output_types(Packed)
            | "Group" >> beam.GroupByKey()
            | "Read" >> beam.FlatMap(assign_content_keys, self.fetch, self.output, self.run)
        )


def assign_content_keys(
    group: tuple[int, Iterable[bytes]], fetch: Fetcher, output: str, run: str
) -> Iterator[KeyedRef]:
    """Yield the images of one file of keys, each with its key: the key in the file, or else the hash of its bytes.

    If the file does not exist yet, all images are read and the file is created. An image that the existing file lacks,
    because it was listed later, is keyed by its path.

    Args:
        group: the number of the file, and packs of keyed references.

    Raises:
        RunStopped: if the file cannot be read or created.
    """
    number, packs = group
    # References as columns have no key beside them.
    refs = [item if isinstance(item, ImageRef) else item[1] for item in unpack_all(packs)]
    path = f"{content_keys_prefix(output, run)}{number}"
    with output_errors(output):
        content = read_exclusive(path)
    if content is None:
        keys = _read_all(refs, fetch)
        with output_errors(output):
            content = create_exclusive(path, json.dumps(keys).encode())
    known: dict[str, str] = json.loads(content) if content else {}
    for ref in refs:
        yield known.get(ref.key) or shard_key(ref), ref


def delete_content_keys(output: str, run: str) -> None:
    """Delete the files of keys of a run that has ended."""
    delete_all_exclusive(content_keys_prefix(output, run))


def _by_file(packed: Packed, count: Count) -> Packed:
    bucket, pack = packed
    return bucket % max(1, min(NUM_HASH_BUCKETS, math.ceil(count.pictures / IMAGES_PER_FILE))), pack


def _read_all(refs: Sequence[ImageRef], fetch: Fetcher) -> dict[str, str]:
    """Return the content key of each image, by the key of its reference. The images are read in threads."""
    keys: dict[str, str] = {}
    with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="hash") as pool:
        for start in range(0, len(refs), MAX_BATCH_REFS):
            batch = refs[start : start + MAX_BATCH_REFS]
            found = pool.map(lambda ref: _content_key(ref, fetch), batch)
            keys.update(zip((ref.key for ref in batch), found, strict=True))
    return keys


def _content_key(ref: ImageRef, fetch: Fetcher) -> str:
    """Return the sha256 of an image in hex, or the key of its place if the image cannot be read or is not to be."""
    if ref.has_nothing_to_ask or is_sequential(ref):
        return shard_key(ref)
    try:
        return sha256(fetch(ref.location)).hexdigest()
    except (OSError, ValueError):
        return ref.key
