"""Failures forgotten, so that they are asked again: rows taken out of the published files of ``errors/``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from ..output.files import exists, make_folder, move, temporary_folder
from ..output.writer import COMPRESSION, COMPRESSION_LEVEL

ROWS_AT_ONCE = 4096


def remove_failures(output: str, path: str, ids: Iterable[str]) -> int:
    """Take the rows of these ids out of one file, which is replaced in one step, or removed when none is left.

    It comes before anything is asked again: a run that dies in between leaves requests that are not done, which the
    next one does, and never a request with two rows. Done again it changes nothing. How many rows it took out.
    """
    if not exists(path):
        return 0
    gone = pa.array(list(ids), pa.string())
    make_folder(temporary_folder(output))
    draft = FileSystems.join(temporary_folder(output), f"{FileSystems.split(path)[1]}-{uuid.uuid4().hex}")
    kept = forgotten = 0
    with FileSystems.open(path) as source, FileSystems.create(draft) as target:
        file = pq.ParquetFile(source)
        with pq.ParquetWriter(
            target, file.schema_arrow, compression=COMPRESSION, compression_level=COMPRESSION_LEVEL
        ) as writer:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                left = batch.filter(pc.invert(pc.is_in(batch["id"], value_set=gone)))
                if left.num_rows:
                    writer.write_batch(left)
                kept, forgotten = kept + left.num_rows, forgotten + batch.num_rows - left.num_rows
    if forgotten and kept:
        move(draft, path)
    else:
        FileSystems.delete([draft, path] if forgotten else [draft])
    return forgotten
