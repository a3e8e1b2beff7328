"""Read the ids in an output without the package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq


def ids(out: Path) -> list[str]:
    """Return the ids of all rows, and check that no id is there twice."""
    paths = [*out.glob("data/*.parquet"), *out.glob("errors/*.parquet")]
    found = [name for path in paths for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    assert set(Counter(found).values()) <= {1}
    return found
