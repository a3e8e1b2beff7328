"""Write the record of a run that ends, and clean up after the run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..core.errors import RunStopped, output_errors
from ..core.records import Job
from ..core.row_schema import annotation_schema
from ..core.summary import Count, Summary, counted
from ..io.retry import RetryPolicy
from ..monitoring.progress import ProgressFiles
from ..monitoring.row_counts import RowCounts, count_rows, list_run_files
from ..output.answer_journal import OPEN_JOURNALS, publish_kept
from ..output.dataset_card import write_card
from ..output.files import exists
from ..output.layout import record_path
from ..output.locks.lock import release
from ..output.reader import count_errors, num_error_rows, read_error_rows
from ..output.run_record import job_metadata, write_record
from ..planning.dedup import delete_content_keys

# Seconds that requests in flight get after a signal. Schedulers kill a process 30 seconds after their signal.
GRACE_S = 4.0
NUM_COMMON_ERRORS = 3
# The command that started the workers replaces this message, or plans the run again without the failed devices.
SHARDS_LEFT = "stopped: the device of a worker failed and its shards are left. Run the same command again to resume."
# Counts that a record has only if they are not 0.
SELDOM_COUNTED = ("changed", "unread", "failed_before", "corrected")


def balances(count: Count, summary: Summary, row_counts: RowCounts) -> bool | None:
    """Return whether each planned request has one row, by the sums of the workers and by the published files.

    Returns:
        None if the published files could not be counted.
    """
    if row_counts.count_error:
        return None
    reported = (summary.annotations, summary.failures)
    return count.pending == summary.rows and reported == (row_counts.data, row_counts.errors)


def record_run(
    summary: Summary,
    count: Count,
    row_counts: RowCounts,
    job: Job,
    output: str,
    about: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    """Write and return the record of a run, and write the dataset card. Then delete the run's temporary files and lock.

    Args:
        started: when the run began, in seconds since 1970.

    Raises:
        RunStopped: if shards are left, because the device of a worker failed; or if the output cannot be written.
    """
    if summary.shards_left:
        raise RunStopped(SHARDS_LEFT)
    with output_errors(output):
        values = _values(job, output, count, summary, row_counts, about, started)
        balanced = balances(count, summary, row_counts)
        record = _end(job, output, {**values, "balanced": balanced}, has_new_rows=count.pending > 0)
    release(output, job.run)
    return record


def end_interrupted(job: Job, output: str, about: Mapping[str, Any], started: float, cause: str) -> str:
    """Publish what a local run has answered before a signal, and write its record. Return a message for the user.

    Requests in flight get ``GRACE_S`` seconds. All worker processes have ended or work in this process.

    Args:
        started: when the run began, in seconds since 1970.
        cause: the name of the signal.

    Raises:
        RunStopped: if the output cannot be written.
    """
    with output_errors(output):
        OPEN_JOURNALS.flush(GRACE_S)
        publish_kept(output, annotation_schema(job.columns), lambda run: run == job.run)
        progress = ProgressFiles(output, job.run)
        if exists(record_path(output, job.run)):
            return f"interrupted after the run had ended: all its rows are in {output}"
        if (planned := progress.read_plan()) is None:
            return "interrupted before any request; run the same command again"
        found = count_rows(list_run_files(output, job.run), RetryPolicy())
        summary = progress.read()[1]._replace(annotations=found.data, failures=found.errors)
        left = planned.pending - summary.rows
        values = _values(job, output, planned, summary, found, about, started)
        _end(job, output, {**values, "balanced": left >= 0, "interrupted": cause, "left": left})
    errors = f" and {counted(found.errors, 'errors')}" * bool(found.errors)
    kept = f"{counted(found.data, 'answers')}{errors} {'is' if found.data + found.errors == 1 else 'are'} in {output}"
    rest = f"{counted(left, planned.unit)} {'is' if left == 1 else 'are'} left"
    return f"interrupted: {kept}; {rest}: run the same command again to resume"


def _values(
    job: Job,
    output: str,
    count: Count,
    summary: Summary,
    row_counts: RowCounts,
    about: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    """Return what every record holds: the job, what the input held, what was done, and how long that took."""
    numbers = {name: number for name, number in count._asdict().items() if number or name not in SELDOM_COUNTED}
    skipped = numbers.pop("skipped")
    # Errors of earlier runs count in this run, so their reasons do too.
    has_errors = summary.failures or count.failed_before
    kinds = count_errors(read_error_rows(output, None if count.failed_before else job.run)) if has_errors else []
    del numbers["shared"]
    return {
        "run": job.run,
        **about,
        **job_metadata(job),
        "counts": {**numbers, "annotations": summary.annotations, "failures": summary.failures},
        "requests": count.requests,
        "common_errors": [kind._asdict() for kind in kinds[:NUM_COMMON_ERRORS]],
        "retryable_errors": sum(kind.retryable for kind in kinds),
        "counted_error_rows": sum(kind.rows for kind in kinds),
        "error_rows": num_error_rows(output),
        "skipped": {each.kind: {"count": each.count, "example": each.example} for each in skipped},
        "published": row_counts._asdict(),
        "totals": {name: getattr(summary, name) for name in summary._fields[2:] if name != "shards_left"},
        "started_at": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": round(time.time() - started, 3),
    }


def _end(job: Job, output: str, values: Mapping[str, Any], *, has_new_rows: bool = True) -> dict[str, Any]:
    """Write the card and the record of a run, and delete its temporary files. Return the record."""
    # Options may contain names of files that are not UTF-8. Neither JSON nor the report can hold those.
    record: dict[str, Any] = json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
    delete_content_keys(output, job.run)
    record["card"] = write_card(output, job.columns, job.run, has_new_rows=has_new_rows)
    write_record(output, job.run, record)
    ProgressFiles(output, job.run).remove()
    return record
