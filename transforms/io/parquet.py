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
    """Yield for each row of a batch its Python values by column and "", or, if a value can't be converted, {} and why.

    Text that is not UTF-8 and timestamps outside of the years 1 to 9999 can't be converted.
    """
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield {}, f"a value can't be read: {error}; correct it in the file"
        else:
            for row in range(len(batch)):
                yield from batch_rows(batch.slice(row, 1))
        return
    yield from ((values, "") for values in rows)


def open_parquet(path: str, file: Any) -> Any:
    """Return ``file``, which is open for reading, as a ``ParquetFile``. Only the footer is read now.

    Args:
        path: its name in error messages.

    Raises:
        FetchError: if an object store fails.
        ValueError: if ``file`` is not a Parquet file or can't be read.
    """
    try:
        return pq.ParquetFile(file, buffer_size=MIN_READ_BYTES, pre_buffer=False)
    except FetchError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}; write it again, or give another file") from error
