"""How far a run is, while it runs: small files beside the unpublished shards, for whoever looks at the output.

On an object store, where every note is a request, only the plan is noted: the published shards tell the rest.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from ..core.summary import Count, Summary, sum_summaries
from ..output.commit import create_exclusive, delete_commit, read_commit
from ..output.files import is_local, temporary_folder

SECONDS_BETWEEN_NOTES = 0.5


class ProgressFiles:
    """The notes of one run. Each shard has its own, and so needs no lock."""

    def __init__(self, output: str, run: str) -> None:
        self.folder = Path(temporary_folder(output), f"{run}.notes") if is_local(output) else None
        far = FileSystems.join(temporary_folder(output), f"{run}.plan.json")
        self._plan = str(self.folder / "plan") if self.folder else far
        self._last = 0.0

    def plan(self, count: Count) -> Count:
        """Note how much the run has to do, unless another attempt of it has noted that; what is noted."""
        return _count(create_exclusive(self._plan, json.dumps(count).encode())) or count

    def read_plan(self) -> Count | None:
        """What was planned, wherever the output is; None: not planned yet, or the run has ended."""
        return _count(read_commit(self._plan))

    def tell(self, shard: int, summary: Summary, last: bool = False) -> bool:
        """Note the sums of a shard so far, unless that was just done; ``last`` is always noted. Whether it was time."""
        now = time.monotonic()
        if not last and now - self._last < SECONDS_BETWEEN_NOTES:
            return False
        self._last = now
        self._write(f"{shard}.json", summary)
        return True

    def read(self) -> tuple[Count | None, Summary]:
        """What was planned (None: not planned yet), and the sums over all shards so far; nothing of an object store."""
        if not self.folder:
            return None, Summary()
        summaries = [Summary(*json.loads(path.read_text())) for path in self.folder.glob("*.json")]
        return self.read_plan(), sum_summaries(summaries)

    def remove(self) -> None:
        """Remove the notes, once the run is over, and the folder around them if nobody else has anything there."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()
        else:
            delete_commit(self._plan)

    def _write(self, name: str, values: object) -> None:
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / name
            # Another attempt at this shard may be at work, in this process or on another machine.
            draft = path.with_suffix(f".{uuid.uuid4().hex}")
            draft.write_text(json.dumps(values))
            # A reader sees the old note or the new one, never half of one.
            draft.replace(path)


def _count(note: bytes | None) -> Count | None:
    return Count(*json.loads(note)) if note else None
