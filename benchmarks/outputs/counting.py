"""Time to count the rows of a run's committed files: ``python benchmarks/outputs/counting.py 1000`` for 1,000 files.

Each file has a thousand rows. The files are on a local disk.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from moondream_beam.transforms.core.row_schema import ANNOTATION_SCHEMA
from moondream_beam.transforms.io.retry import RetryPolicy
from moondream_beam.transforms.monitoring.row_counts import count_rows, list_run_files

ROWS = 1000


def main(files: int) -> None:
    """Write this number of files, count their rows, and print the time."""
    digests = pa.array([f"{row:064x}" for row in range(ROWS)])
    table = pa.table(dict.fromkeys(ANNOTATION_SCHEMA.names, digests))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "data").mkdir()
        for shard in range(files):
            pq.write_table(table, Path(folder, "data", f"part-run-{shard:05}.parquet"), compression="zstd")
        started, of_core = time.perf_counter(), time.process_time()
        found = count_rows(list_run_files(folder, "run"), RetryPolicy())
        seconds, of_core = time.perf_counter() - started, time.process_time() - of_core
    print(f"{found.data:,} rows in {found.files:,} files: {seconds:.2f} s, {of_core:.2f} s of a core")


if __name__ == "__main__":
    main(int(sys.argv[1]))
