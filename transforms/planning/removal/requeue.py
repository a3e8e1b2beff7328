"""Remove rows from the published files of an output, so that their requests are done again."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...io.object_stores.file_systems import FileSystems
from ...output.files import exists, open_atomic, remove
from ...output.layout import draft_path
from ...output.writer import COMPRESSION, COMPRESSION_LEVEL

MAX_BATCH_ROWS = 4096


def remove_rows(path: str, ids: Iterable[str], output: str, run: str) -> int:
    """Remove the rows with these ids from one file, which is replaced in one step, or deleted if no row is left.

    This happens before the requests are sent again. If the run dies in between, the requests have no row and the next
    run sends them. A request never has two rows. A repeated call changes nothing.

    Args:
        path: a file in ``data/`` or ``errors/`` of ``output``.
        run: the run that sends the requests again.

    Returns:
        The number of removed rows, 0 if the file is gone.
    """
    if not exists(path):
        return 0
    removed_ids = pa.array(list(ids), pa.string())
    with FileSystems.open(path) as source:
        found = pc.is_in(pq.read_table(source, columns=["id"])["id"], value_set=removed_ids)
    removed = int(pc.sum(found).as_py() or 0)
    if not removed:
        return 0
    with FileSystems.open(path) as source:
        file = pq.ParquetFile(source)
        if removed == file.metadata.num_rows:
            remove(path)
            return removed
        with (
            open_atomic(path, draft_path(output, run)) as target,
            pq.ParquetWriter(
                target, file.schema_arrow, compression=COMPRESSION, compression_level=COMPRESSION_LEVEL
            ) as writer,
        ):
            for batch in file.iter_batches(MAX_BATCH_ROWS):
                kept = batch.filter(pc.invert(pc.is_in(batch["id"], value_set=removed_ids)))
                if kept.num_rows:
                    writer.write_batch(kept)
    return removed


def remove_group(path_and_ids: tuple[str, Iterable[str]], output: str, run: str) -> int:
    """Call ``remove_rows`` with one element of ids that are grouped by their file."""
    return remove_rows(*path_and_ids, output, run)
