"""Write and read the records of runs: one JSON file for each run that has ended, with its model, tasks and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...models.tasks import Query, Task
from ..core.records import Job
from ..io.object_stores.file_systems import FileSystems
from .files import glob_files, write_atomic
from .layout import draft_path, record_path

# The key of a record for the failures of devices, by worker process. Other workers have done the shards.
DEVICE_FAILURES = "device_failures"
PACKAGES = ("moondream-beam", "apache-beam", "torch", "pillow", "pyarrow", "tokenizers")


def write_record(output: str, run: str, record: Mapping[str, Any]) -> None:
    """Write the record of a run, or replace it."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomic(record_path(output, run), text.encode(), draft_path(output, run))


def read_record(output: str, run: str) -> dict[str, Any]:
    """Return the record of a run that has ended.

    Raises:
        Exception: if there is none. The class depends on the file system.
    """
    with FileSystems.open(record_path(output, run)) as file:
        record: dict[str, Any] = json.loads(file.read())
    return record


def read_records(output: str) -> list[dict[str, Any]]:
    """Return the records of all runs that have ended, the earliest first. Files that are not records are skipped."""
    records = []
    for path in glob_files(record_path(output, "*")):
        with FileSystems.open(path) as file:
            try:
                record = json.loads(file.read())
            except ValueError:
                continue
        if isinstance(record, dict) and {"run", "counts"} <= record.keys():
            records.append(record)
    return sorted(records, key=lambda record: (str(record.get("started_at", "")), record["run"]))


def retried_errors(record: Mapping[str, Any] | None, failures: int) -> int:
    """Return how many of a run's rows in ``errors/`` later runs removed to retry them.

    Args:
        failures: how many rows of the run are left in ``errors/``.

    Returns:
        0 if the run has no record, or if its record is not balanced: the number of failures is not known then.
    """
    return _missing(record, "failures", failures)


def retried_answers(record: Mapping[str, Any] | None, annotations: int) -> int:
    """Return how many of a run's rows in ``data/`` later runs removed, because their picture had changed.

    Args:
        annotations: how many rows of the run are left in ``data/``.

    Returns:
        0 if the run has no record, or if its record is not balanced: the number of answers is not known then.
    """
    return _missing(record, "annotations", annotations)


def _missing(record: Mapping[str, Any] | None, kind: str, left: int) -> int:
    return max(0, record["counts"].get(kind, 0) - left) if record and record.get("balanced") else 0


def _task_metadata(task: Task) -> dict[str, Any]:
    """Return the task's kind and prompt, and the JSON schema of a query that has one."""
    described: dict[str, Any] = {"task": task.name, "prompt": task.prompt}
    if isinstance(task, Query) and isinstance(task.schema, str):
        described["schema"] = json.loads(task.schema)
    return described


def job_metadata(job: Job) -> dict[str, Any]:
    """Return what determines the answers of a job: model, tasks, sampling, colour profiles and package versions."""
    return {
        "model": job.annotator.name,
        "revision": job.annotator.revision,
        "tasks": [_task_metadata(task) for task in job.tasks],
        "sampling": vars(job.sampling),
        "colour_profiles": job.colour_profiles,
        "versions": {name: installed_version(name) for name in PACKAGES},
    }


def installed_version(name: str) -> str:
    """Return the version of an installed package, or ``unknown`` if a worker has the package without its metadata."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
