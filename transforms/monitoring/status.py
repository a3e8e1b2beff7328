"""Find out how far the runs of an output are, from its published files, progress files, locks and records.

Only the footer of a published file is read, and each footer is read once. In a bucket, rows of earlier runs that a run
removes to retry them are seen by a new ``OutputStatus`` only.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from ..core.summary import Count, Summary
from ..io.object_stores.file_systems import FileSystems
from ..io.uris import LOCAL, scheme_of
from ..output.answer_journal import kept_by_shard
from ..output.files import absolute
from ..output.layout import ALL_PARTS, DATA, ERRORS, Slice, part_name, run_of_part, started_at
from ..output.locks.lock import active_runs, begun_runs
from ..output.reader import PartFooter, published, read_footer, read_footers
from ..output.run_record import read_records, retried_answers, retried_errors
from .progress import ProgressFiles, counts_of

# Options in the record of a run that choose its pictures.
INPUT_OPTIONS = ("inputs", "manifest", "limit")
State = Literal["running", "ended", "interrupted", "stopped"]


class RunStatus(NamedTuple):
    """How far a run is.

    Attributes:
        state: ``running`` if the run holds its lock, ``ended`` if it has a record, ``interrupted`` if the record says
            that a signal ended the run, and else ``stopped``.
        annotations: rows in ``data/``.
        failures: rows in ``errors/``.
        planned: what the run had to do, or None if that is not known.
        first: when the run began, or when it made its first row, or None if neither is known.
        last: when the last published row was made, or None if there is none.
        record: the record of a run that has ended, or None.
        kept: rows in the journal of answers, which no published file has yet. The next run publishes them.
        unpublished: rows of a running run that no published file has, kept or not. Of an output in a bucket only kept
            rows are known.
        in_flight: requests that are being answered; 0 if the output is in a bucket, because that is not known then.
        was_resumed: a later run did the same job, as far as the records show.
    """

    run: str
    state: State
    annotations: int
    failures: int
    planned: Count | None
    first: datetime | None
    last: datetime | None
    record: dict[str, Any] | None
    kept: int = 0
    unpublished: int = 0
    in_flight: int = 0
    was_resumed: bool = False

    @property
    def rows(self) -> int:
        """Return the rows of both kinds, published or not."""
        return self.annotations + self.failures + max(self.kept, self.unpublished)

    @property
    def num_retried(self) -> int:
        """Return how many of the run's rows in ``errors/`` later runs removed to retry them."""
        return retried_errors(self.record, self.failures)

    @property
    def num_changed(self) -> int:
        """Return how many of the run's rows in ``data/`` later runs removed, because their picture had changed."""
        return retried_answers(self.record, self.annotations)

    def rate(self, now: datetime) -> float | None:
        """Return rows per second since the run began, or None if no time has passed or the beginning is not known."""
        if self.record and self.record.get("wall_seconds"):
            return self.rows / float(self.record["wall_seconds"])
        until = now if self.state == "running" else self.last
        seconds = (until - self.first).total_seconds() if until and self.first else 0.0
        return self.rows / seconds if seconds > 0 else None

    def has_job_of(self, other: RunStatus) -> bool:
        """Return whether this run had the slice of the other run, or all slices, and the same tasks and input.

        Tasks and input are those of the records. If one of the runs has no record, they count as the same.
        """
        if Slice.from_run_name(self.run) not in (None, Slice.from_run_name(other.run)):
            return False
        return not self.record or not other.record or _job_of(self.record) == _job_of(other.record)

    def seconds_left(self, now: datetime) -> float | None:
        """Return how many seconds the remaining rows take at the present rate, or None if plan or rate is not known."""
        rate = self.rate(now)
        return max(0, self.planned.pending - self.rows) / rate if self.planned and rate else None


class OutputStatus:
    """The status of all runs of an output. It may be polled again and again; known footers are not read again.

    Raises:
        ValueError: if an output cannot be at this path.
    """

    def __init__(self, output: str) -> None:
        self.output = absolute(output)
        # By path and time of writing.
        self._footers: dict[tuple[str, int], PartFooter] = {}

    def poll(self) -> list[RunStatus]:
        """Return the present status of all runs that have a lock, a record or a published file, sorted by name."""
        # In this order, because a run publishes its files, then writes its record, then releases its lock. In another
        # order a run that ends meanwhile would be reported as stopped, and rows that are published counted twice.
        begun, active = set(begun_runs(self.output)), set(active_runs(self.output))
        records = {record["run"]: record for record in read_records(self.output)}
        in_journals = kept_by_shard(self.output)
        footers = self._read_footers()
        # The journal of a shard is deleted a moment after the shard is published.
        names = {FileSystems.split(path)[1] for path, _ in self._footers}
        kept: Counter[str] = Counter()
        for (run, shard), rows in in_journals.items():
            if part_name(run, shard) not in names:
                kept[run] += rows
        # A command that is refused deletes its lock file at once. The file of a run that was killed stays.
        begun &= set(begun_runs(self.output))
        runs = [
            self._status(run, active, records.get(run), [footer for footer in footers if footer.run == run], kept[run])
            for run in sorted(begun | active | records.keys() | kept.keys() | {footer.run for footer in footers})
        ]
        return [
            run._replace(was_resumed=any(later.has_job_of(run) for later in runs[index + 1 :]))
            for index, run in enumerate(runs)
        ]

    def _read_footers(self) -> list[PartFooter]:
        paths = (path for path in published(self.output, ALL_PARTS) if run_of_part(FileSystems.split(path)[1]))
        # --retry-errors deletes files of errors/, and replaces those of which rows are left.
        files = {(path, _written_ns(path)) for path in paths}
        self._footers = {file: footer for file, footer in self._footers.items() if file in files}
        new = sorted(files - self._footers.keys())
        footers = read_footers([path for path, _ in new], read_footer)
        self._footers.update(zip(new, footers, strict=True))
        return list(self._footers.values())

    def _status(
        self, run: str, active: set[str], record: dict[str, Any] | None, footers: Sequence[PartFooter], kept: int
    ) -> RunStatus:
        progress = ProgressFiles(self.output, run)
        annotations, failures = (
            sum(footer.rows for footer in footers if footer.kind == kind) for kind in (DATA, ERRORS)
        )
        ended: State = "interrupted" if record and "interrupted" in record else "ended"
        state: State = ended if record else "running" if run in active else "stopped"
        reported, in_flight = progress.read_shards() if state == "running" else (Summary(), 0)
        first = min((footer.first for footer in footers if footer.first), default=None)
        return RunStatus(
            run,
            state,
            annotations,
            failures,
            progress.read_plan() if record is None else counts_of(record)[0],
            first if record else started_at(run) or first,
            max((footer.last for footer in footers if footer.last), default=None),
            record,
            kept,
            max(0, reported.rows - annotations - failures),
            in_flight,
        )


def _written_ns(path: str) -> int:
    """Return when a local file was written, or 0 if it is in a bucket, where that would be a request a file."""
    if scheme_of(path) != LOCAL:
        return 0
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_mtime_ns
    return 0


def _job_of(record: Mapping[str, Any]) -> list[Any]:
    """Return the tasks and the input in the record of a run."""
    options = record.get("options", {})
    return [record.get("tasks"), *(options.get(name) for name in INPUT_OPTIONS)]
