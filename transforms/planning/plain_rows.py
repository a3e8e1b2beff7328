"""Plan the pictures that get the tasks of the job and nothing else, in fewer steps than all others.

Nearly every picture of nearly every job is of this kind: one row of the input names it, and the row has neither prompts
of its own nor columns to keep. The result is the same as that of ``rows_of`` for each of them.
"""

from __future__ import annotations

from collections.abc import Container
from hashlib import sha256

from ...models.tasks import Task
from ..core.records import KEY_DIGITS, ImageRef, Job, encode
from ..core.shuffle import PLAIN
from ..core.summary import Count
from .completed import ID_BYTES
from .dedup import KeyedRef


class PlainRows:
    """What the ids of plain pictures have in common.

    Args:
        tasks: the tasks of the job, each once.
        suffixes: for each task ``Job.id_suffix``.
    """

    def __init__(self, tasks: tuple[Task, ...], suffixes: list[bytes]) -> None:
        self._tasks, self._suffixes = tasks, suffixes

    @classmethod
    def of(cls, job: Job) -> PlainRows | None:
        """Return the object for a job, or None if the job has no task, or one task twice."""
        tasks = tuple(job.tasks)
        is_plain = 0 < len(set(tasks)) == len(tasks)
        return cls(tasks, [job.id_suffix(task) for task in tasks]) if is_plain else None

    def take(
        self, same: dict[str, list[ImageRef]], completed: Container[bytes], failed: Container[bytes]
    ) -> tuple[list[KeyedRef], Count]:
        """Remove the plain pictures from ``same`` of which all rows are completed, or none is.

        Pictures with a row in ``errors/`` stay in ``same`` too.

        Args:
            same: references by the displayed URI of their picture.
            completed: short ids of the rows that are not made again.
            failed: short ids of the rows in ``errors/``.

        Returns:
            The pictures without a completed row, each with its shard key, and the count of all that were removed.
        """
        pending, done = [], 0
        tasks, suffixes = self._tasks, self._suffixes
        for shown, refs in list(same.items()):
            ref = refs[0]
            if len(refs) > 1 or ref.tasks or ref[3:] != PLAIN:
                continue
            picture = encode(shown)
            ids = [sha256(picture + suffix).digest()[:ID_BYTES] for suffix in suffixes]
            found = [id in completed for id in ids]
            if (any(found) and not all(found)) or any(id in failed for id in ids):
                continue
            del same[shown]
            if found[0]:
                done += 1
            else:
                key = sha256(picture).hexdigest()[:KEY_DIGITS]
                pending.append((key, ImageRef(ref.uri, ref.filename, tasks)))
        rows, taken = len(suffixes), len(pending) + done
        return pending, Count(len(pending), rows * len(pending), rows * done, inputs=taken)
