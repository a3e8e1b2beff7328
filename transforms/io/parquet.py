"""Open Parquet files lazily, and read their rows as Python values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .files import MIN_READ_BYTES
from .retry import FetchError

ROWS_PER_BATCH = 1024


def batch_rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a batch as Python's values, or what is wrong with one: no UTF-8, a moment beyond the calendar."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield {}, f"a value can't be read: {error}"
        else:
            for row in range(len(batch)):
                yield from batch_rows(batch.slice(row, 1))
        return
    yield from ((values, "") for values in rows)


def open_parquet(path: str, file: Any) -> Any:
    """An open file as a Parquet file, of which nothing is read that nobody asks for.

    Raises:
        FetchError: it can't be read.
        ValueError: it is none.
    """
    try:
        return pq.ParquetFile(file, buffer_size=MIN_READ_BYTES, pre_buffer=False)
    except FetchError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"manifest {path}: this is no Parquet file: {error}") from error
