"""What stands beside the rows: the dataset card that makes the folder loadable, and the record of each run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from ..core.records import FAILURE_SCHEMA, Job, annotation_schema
from .files import glob_files, write_atomic

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

One row for each task on each picture, in `data/`; what could not be answered, and why, in `errors/`.
Each run has its record in `runs/`.

```python
from datasets import load_dataset

annotations = load_dataset("{output}", split="train")
errors = load_dataset("{output}", "errors", split="train")
```

Of a part without rows, as `errors/` should be, `datasets` says that it "corresponds to no data".
"""

VERSIONS = ("moondream-beam", "apache-beam", "torch", "pillow", "pyarrow", "tokenizers")


def write_card(output: str, columns: Sequence[pa.Field] = ()) -> None:
    """Write README.md, and a file of no rows where a folder would lack one: readers want one for the columns."""
    write_atomic(output, FileSystems.join(output, "README.md"), CARD.format(output=output).encode())
    for kind, schema in (("data", annotation_schema(columns)), ("errors", FAILURE_SCHEMA)):
        folder = FileSystems.join(output, kind)
        if not glob_files(FileSystems.join(folder, "*.parquet")):
            empty = io.BytesIO()
            pq.ParquetWriter(empty, schema).close()
            write_atomic(output, FileSystems.join(folder, "part-empty.parquet"), empty.getvalue())


def write_record(output: str, run: str, record: Mapping[str, Any]) -> None:
    """Write the record of a run."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomic(output, record_path(output, run), text.encode())


def read_record(output: str, run: str) -> dict[str, Any]:
    """Read the record of a run."""
    with FileSystems.open(record_path(output, run)) as file:
        record: dict[str, Any] = json.loads(file.read())
    return record


def record_path(output: str, run: str) -> str:
    """Where the record of a run stands once it has ended."""
    return FileSystems.join(output, "runs", f"{run}.json")


def retried_errors(record: Mapping[str, Any] | None, failures: int) -> int:
    """How many rows of a run later ones took out of ``errors/``, to ask them again, where so many are left there."""
    # Without a ledger that balanced nobody knows how many there were.
    return max(0, record["counts"]["failures"] - failures) if record and record.get("balanced") else 0


def job_metadata(job: Job) -> dict[str, Any]:
    """What ran: model, tasks, sampling and the versions of all that decides an answer."""
    return {
        "model": job.annotator.name,
        "revision": job.annotator.revision,
        "tasks": [{"task": task.name, "prompt": task.prompt} for task in job.tasks],
        "sampling": vars(job.sampling),
        "versions": {name: installed_version(name) for name in VERSIONS},
    }


def installed_version(name: str) -> str:
    """The version of a distribution. A worker may have the package without its metadata: no reason to fail a run."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def read_records(output: str) -> list[dict[str, Any]]:
    """The records of an output's runs that have ended, the oldest first. One that is no JSON is passed over."""
    records = []
    for path in glob_files(FileSystems.join(output, "runs", "*.json")):
        with FileSystems.open(path) as file:
            try:
                record = json.loads(file.read())
            except ValueError:
                continue
        if isinstance(record, dict) and {"run", "counts"} <= record.keys():
            records.append(record)
    return sorted(records, key=lambda record: (str(record.get("started_at", "")), record["run"]))
