"""What an output holds, looked at from outside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq


def ids(out: Path) -> list[str]:
    """The ids of all rows, each of which must be there once."""
    paths = [*out.glob("data/*.parquet"), *out.glob("errors/*.parquet")]
    found = [name for path in paths for name in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    assert set(Counter(found).values()) <= {1}
    return found
