"""Write the dataset card, README.md, with which `datasets.load_dataset` loads an output."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from ..core.records import FAILURE_SCHEMA, annotation_schema
from .files import glob_files, write_atomic
from .layout import CARD_NAME, DATA, EMPTY_PART, ERRORS, draft_path

CARD = """\
---
configs:
- config_name: default
  data_files: data/*.parquet
- config_name: errors
  data_files: errors/*.parquet
tags:
- moondream-beam
---
# Annotated images

`data/` has one row for each task on each image. `errors/` has one row for each task that failed, with the reason.
`runs/` has one JSON file for each run: model, tasks, counts and cost.

```python
from datasets import load_dataset

annotations = load_dataset("{output}", split="train")
errors = load_dataset("{output}", "errors", split="train")
```

If `errors/` has no rows, because no task failed, `load_dataset` raises an error that contains "corresponds to no data".
"""


def write_card(output: str, columns: Sequence[pa.Field] = (), run: str = "") -> None:
    """Write README.md, and a Parquet file without rows to ``data/`` or ``errors/`` if that folder has no file.

    Readers take the names and types of columns from the file without rows.

    Args:
        columns: the columns of a manifest that the rows keep.
        run: the run that writes the card.
    """
    card = CARD.format(output=output).encode()
    write_atomic(FileSystems.join(output, CARD_NAME), card, draft_path(output, run))
    for kind, schema in ((DATA, annotation_schema(columns)), (ERRORS, FAILURE_SCHEMA)):
        folder = FileSystems.join(output, kind)
        if not glob_files(FileSystems.join(folder, "*.parquet")):
            empty = io.BytesIO()
            pq.ParquetWriter(empty, schema).close()
            write_atomic(FileSystems.join(folder, EMPTY_PART), empty.getvalue(), draft_path(output, run))
