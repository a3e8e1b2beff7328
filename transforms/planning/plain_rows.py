"""Plan as columns the pictures that get the tasks of the job and nothing else.

Nearly every picture of nearly every job is of this kind: one row of the input names it, and the row has neither prompts
of its own nor columns to keep. The result is the same as that of ``rows_of`` for each of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from ...models.tasks import Task
from ..core.records import ImageRef, Job
from ..core.ref_columns import RefColumns, concat, split_repeated
from ..core.summary import Count
from .completed import ID_BYTES


class Taken(NamedTuple):
    """What ``PlainRows.take`` has planned, and what it left.

    Attributes:
        pending: the pictures without a completed row, with the tasks of the job; None if there are none.
        others: references that must be planned one by one.
        count: the count of all planned pictures.
    """

    pending: RefColumns | None
    others: list[ImageRef]
    count: Count


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
        self,
        columns: list[RefColumns],
        others: Iterable[ImageRef],
        completed: Collection[bytes],
        failed: Collection[bytes],
    ) -> Taken:
        """Plan the pictures in ``columns`` of which all rows are completed, or none is.

        Pictures that several references name, and those with a row in ``errors/``, are left.

        Args:
            columns: references without tasks, of one hash bucket.
            others: all other references of the bucket.
            completed: short ids of the rows that are not made again.
            failed: short ids of the rows in ``errors/``.
        """
        if not columns:
            return Taken(None, [], Count())
        refs, left = split_repeated(concat(columns), others)
        if not completed and not failed:
            return Taken(self._with_tasks(refs), left, self._count(refs.num_rows, 0))
        ids = [[digest[:ID_BYTES] for digest in refs.digests(suffix)] for suffix in self._suffixes]
        found = np.array([[id in completed for id in column] for column in ids], bool).sum(axis=0)
        is_failed = np.array([[id in failed for id in column] for column in ids], bool).any(axis=0)
        is_done, is_pending = (found == len(ids)) & ~is_failed, (found == 0) & ~is_failed
        left += refs.take(~is_done & ~is_pending).refs()
        done, pending = int(is_done.sum()), refs.take(is_pending)
        return Taken(self._with_tasks(pending), left, self._count(pending.num_rows, done))

    def _with_tasks(self, refs: RefColumns) -> RefColumns | None:
        return refs._replace(tasks=self._tasks) if refs.num_rows else None

    def _count(self, pending: int, done: int) -> Count:
        num_tasks = len(self._tasks)
        return Count(pending, num_tasks * pending, num_tasks * done, inputs=pending + done)
