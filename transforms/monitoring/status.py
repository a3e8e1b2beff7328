"""How far the runs of an output are, from what lies there: published files, notes, tokens and records.

Of a published file only its end is read, and that once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from ..core.summary import Count
from ..output.files import absolute, kind_of
from ..output.layout import run_of_file
from ..output.lock import at_work
from ..output.reader import Reader, published
from ..output.run_record import read_records, retried_errors
from .progress import ProgressFiles

State = Literal["running", "ended", "stopped"]

THREADS = 16
_STARTED = re.compile(r"\d{8}T\d{6}")


class PartFooter(NamedTuple):
    """What the end of a published file tells: its rows, and when the first and the last of them were made."""

    kind: str
    run: str
    rows: int
    first: datetime | None
    last: datetime | None


class RunStatus(NamedTuple):
    """How far a run is. ``planned`` is None where nobody knows any more, ``record`` where it has not ended."""

    run: str
    state: State
    annotations: int
    failures: int
    planned: Count | None
    first: datetime | None
    last: datetime | None
    record: dict[str, Any] | None

    @property
    def rows(self) -> int:
        """Rows of both kinds."""
        return self.annotations + self.failures

    @property
    def asked_again(self) -> int:
        """Its rows in ``errors/`` that a later run took out and asked again."""
        return retried_errors(self.record, self.failures)

    def rate(self, now: datetime) -> float | None:
        """Rows a second since it began, 0 and more; None where that can't be told."""
        if self.record and self.record.get("wall_seconds"):
            return self.rows / float(self.record["wall_seconds"])
        until = now if self.state == "running" else self.last
        seconds = (until - self.first).total_seconds() if until and self.first else 0.0
        return self.rows / seconds if seconds > 0 else None

    def seconds_left(self, now: datetime) -> float | None:
        """How long it will take at that rate; None where that can't be told."""
        rate = self.rate(now)
        return max(0, self.planned.pending - self.rows) / rate if self.planned and rate else None


class OutputStatus:
    """Looks at an output, as often as one likes; what it has seen it does not read again.

    Raises:
        ValueError: there can't be an output at this place.
    """

    def __init__(self, output: str) -> None:
        self.output = absolute(output)
        self._parts: dict[str, PartFooter] = {}
        self._reader = Reader()

    def look(self) -> list[RunStatus]:
        """All runs that left something, the earliest first."""
        # Before the parts, since a run publishes them, then its record, and only then lets its token go.
        alive = set(at_work(self.output))
        records = {record["run"]: record for record in read_records(self.output)}
        parts = self._read_parts()
        runs = sorted(alive | records.keys() | {part.run for part in parts})
        return [self._status(run, alive, records.get(run), [part for part in parts if part.run == run]) for run in runs]

    def _read_parts(self) -> list[PartFooter]:
        paths = published(self.output, "part-*.parquet")
        # What --retry-errors forgot is gone.
        self._parts = {path: part for path, part in self._parts.items() if path in set(paths)}
        new = [path for path in paths if path not in self._parts and run_of_file(FileSystems.split(path)[1])]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="status") as pool:
            self._parts.update(zip(new, pool.map(lambda path: read_part(path, self._reader), new), strict=True))
        return list(self._parts.values())

    def _status(self, run: str, alive: set[str], record: dict[str, Any] | None, parts: list[PartFooter]) -> RunStatus:
        notes = ProgressFiles(self.output, run)
        annotations, failures = (sum(part.rows for part in parts if part.kind == kind) for kind in ("data", "errors"))
        if record is None:
            noted = notes.read()[1]
            if noted.rows > annotations + failures:
                annotations, failures = noted.annotations, noted.failures
        state: State = "ended" if record else "running" if run in alive else "stopped"
        first = _earliest(part.first for part in parts)
        return RunStatus(
            run,
            state,
            annotations,
            failures,
            notes.read_plan() if record is None else _count(record),
            started_at(run) or first if state == "running" else first,
            _latest(part.last for part in parts),
            record,
        )


def read_part(path: str, reader: Reader) -> PartFooter:
    """What the end of a published file tells."""
    file_name = FileSystems.split(path)[1]
    with reader.open(path) as file:
        metadata = pq.ParquetFile(file).metadata
    firsts, lasts = [], []
    for group in range(metadata.num_row_groups):
        statistics = _statistics(metadata.row_group(group), "created_at")
        if statistics is not None and statistics.has_min_max:
            firsts.append(statistics.min)
            lasts.append(statistics.max)
    return PartFooter(kind_of(path), run_of_file(file_name) or "", metadata.num_rows, _earliest(firsts), _latest(lasts))


def started_at(run: str) -> datetime | None:
    """When a run was planned, which its name tells; None where somebody else named it."""
    match = _STARTED.match(run)
    return datetime.strptime(match[0], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc) if match else None


def _statistics(group: Any, column: str) -> Any:
    columns = (group.column(number) for number in range(group.num_columns))
    return next((chunk.statistics for chunk in columns if chunk.path_in_schema == column), None)


def _count(record: dict[str, Any]) -> Count:
    counts = record["counts"]
    return Count(**{name: int(counts.get(name, 0)) for name in Count._fields})


def _earliest(moments: Iterable[datetime | None]) -> datetime | None:
    return min((moment for moment in moments if moment), default=None)


def _latest(moments: Iterable[datetime | None]) -> datetime | None:
    return max((moment for moment in moments if moment), default=None)
