"""How far a run is whose output is in a bucket, from the names and the footers of its files.

An accumulator of Spark or a counter of Beam would need no requests, but it grows only once a shard has ended, which may
take hours. A shard that is tried again would count twice. The journal of answers grows at each checkpoint.
"""

from __future__ import annotations

import contextlib

from ..core.summary import Count, Summary
from ..io.object_stores.file_systems import FileSystems
from ..output.answer_journal import kept_by_shard
from ..output.files import exists
from ..output.layout import DATA, part_name, record_path
from ..output.reader import PartFooter, read_footer, read_footers
from ..output.run_record import read_record
from .progress import ProgressFiles, counts_of
from .row_counts import list_run_files


class BucketProgress:
    """Reads how far a run is from its plan, its published files, and the names of its files of the answer journal.

    A footer is read once, so that ``read`` may be called again and again.
    """

    def __init__(self, files: ProgressFiles) -> None:
        self.output, self.run, self._files = files.output, files.run, files
        self._planned: Count | None = None
        self._footers: dict[str, PartFooter] = {}
        self._last: tuple[Count | None, Summary] = None, Summary()

    def read(self) -> tuple[Count | None, Summary]:
        """Return how much the run has to do, and the rows so far. Tokens and costs are 0, because no footer has them.

        Rows that only the journal has count as annotations, because its names do not say how many are failures. The
        count is None if it is not recorded yet. Once the run has ended, both are those of its record. If the bucket
        cannot be read, both are those of the call before: a display must not end a run.
        """
        # Each client of a store has errors of its own. The steps that need the bucket report them.
        with contextlib.suppress(Exception):
            self._last = self._read()
        return self._last

    def _read(self) -> tuple[Count | None, Summary]:
        self._planned = self._planned or self._files.read_plan()
        if exists(record_path(self.output, self.run)):
            return counts_of(read_record(self.output, self.run))
        if self._planned is None:
            return None, Summary()
        # Listed before the published files: a shard that is published in between does not count twice.
        kept = kept_by_shard(self.output, self.run)
        new = [path for path in list_run_files(self.output, self.run) if path not in self._footers]
        footers = read_footers(new, read_footer)
        self._footers.update(zip(new, footers, strict=True))
        names = {FileSystems.split(path)[1] for path in self._footers}
        data = sum(footer.rows for footer in self._footers.values() if footer.kind == DATA)
        errors = sum(footer.rows for footer in self._footers.values()) - data
        waiting = sum(rows for of, rows in kept.items() if part_name(*of) not in names)
        return self._planned, Summary(annotations=data + waiting, failures=errors)
