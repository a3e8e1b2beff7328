"""The progress of a run while it runs, in small files in ``_temporary`` that other processes read.

A bucket gets one file only, with what the run has to do. Its published files show how far the run is. A file for each
shard would cost a request for each update.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...models.atomic_files import write_atomic
from ..core.summary import Count, Summary, sum_summaries
from ..output.commit import create_exclusive, delete_exclusive, read_exclusive
from ..output.files import exists, is_local, remove_temporary_folder
from ..output.layout import plan_path, progress_folder, record_path
from ..output.run_record import read_record

REPORT_INTERVAL_S = 0.5
# The extension of the progress file of a shard, which is JSON. Readers of data sets take .json for rows.
SUMS = ".sums"


class ProgressFiles:
    """The progress files of one run. Each shard has its own file, so that workers need no lock.

    ``folder`` is the folder of these files, or None if the output is in a bucket.
    """

    def __init__(self, output: str, run: str) -> None:
        self.output, self.run = output, run
        self.folder = Path(progress_folder(output, run)) if is_local(output) else None
        self._plan_path = plan_path(output, run)
        self._last_report = 0.0

    def record_plan(self, count: Count) -> Count:
        """Record how much the run has to do, once. Return what an earlier attempt recorded, if there was one."""
        return _parse_count(create_exclusive(self._plan_path, json.dumps(count).encode())) or count

    def read_plan(self) -> Count | None:
        """Return how much the run has to do, or None if that is not recorded yet or the run has ended."""
        return _parse_count(read_exclusive(self._plan_path))

    def report(self, shard: int, summary: Summary, in_flight: int = 0, last: bool = False) -> bool:
        """Write the sums over a shard's rows so far, at most once in ``REPORT_INTERVAL_S``. In a bucket, write nothing.

        Args:
            in_flight: the requests of the shard that are being answered.
            last: these are the final sums of the shard, which are always written.

        Returns:
            False if the last report was too recent.
        """
        now = time.monotonic()
        if not last and now - self._last_report < REPORT_INTERVAL_S:
            return False
        self._last_report = now
        if self.folder:
            # Not durable: after a power loss the run is over, and nobody reads its progress.
            write_atomic(self.folder / f"{shard}{SUMS}", json.dumps([summary, in_flight]).encode(), durable=False)
        return True

    def read(self) -> tuple[Count | None, Summary]:
        """Return how much a run in a local output has to do, and the sums over all rows so far.

        The count is None if it is not recorded yet. Once the run has ended, both are those of its record. For an
        output in a bucket they are None and zeros.
        """
        if not self.folder:
            return None, Summary()
        summary, _ = self.read_shards()
        # Read last, because ``remove`` deletes the plan first: if there is a plan, the sums are complete.
        planned = self.read_plan()
        if planned is None and exists(record_path(self.output, self.run)):
            return counts_of(read_record(self.output, self.run))
        return planned, summary

    def read_shards(self) -> tuple[Summary, int]:
        """Return the sums over all rows that shards have reported so far, and the number of requests in flight.

        For an output in a bucket they are zeros.
        """
        shards = self._shards()
        return sum_summaries([summary for summary, _ in shards]), sum(in_flight for _, in_flight in shards)

    def _shards(self) -> list[tuple[Summary, int]]:
        """Return what the shards of a run have reported last."""
        shards = []
        # The run may end meanwhile and delete its files.
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.glob(f"*{SUMS}") if self.folder else ():
                summary, in_flight = json.loads(path.read_bytes())
                shards.append((Summary(*summary), in_flight))
        return shards

    def remove(self) -> None:
        """Delete the progress files, and ``_temporary`` if it is empty then."""
        delete_exclusive(self._plan_path)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            remove_temporary_folder(self.output)


def counts_of(record: Mapping[str, Any]) -> tuple[Count, Summary]:
    """Return what a run had to do and the sums over its rows, from its record. What the record lacks is 0."""
    counts = dict(record["counts"])
    counts["shared"] = counts.get("pending", 0) - record.get("requests", counts.get("pending", 0))
    sums = {**record.get("totals", {}), **counts}
    return (
        Count._make([*(int(counts.get(name, 0)) for name in Count._fields[:-1]), ()]),
        Summary(**{name: sums.get(name, 0) for name in Summary._fields}),
    )


def _parse_count(content: bytes | None) -> Count | None:
    return Count.from_json(json.loads(content)) if content else None
