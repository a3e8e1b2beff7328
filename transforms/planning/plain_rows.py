"""Plan as columns the pictures that get the tasks of the job and nothing else.

Nearly every picture of nearly every job is of this kind: one row of the input names it, and the row has neither prompts
of its own nor columns to keep. The result is the same as that of ``rows_of`` for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ...models.tasks import Task
from ..core.records import ImageRef, Job
from ..core.ref_columns import RefColumns, concat, split_repeated
from ..core.summary import Count
from .completed import ID_BYTES, CompletedIds, id_column, is_in


class Taken(NamedTuple):
    """What ``PlainRows.take`` has planned, and what it left.

    Attributes:
        pending: the pictures without a completed row, with the tasks of the job; None if there are none.
        others: references that must be planned one by one.
        planned: the count of all planned pictures.
    """

    pending: RefColumns | None
    others: list[ImageRef]
    planned: Count


class PlainRows:
    """What the ids of plain pictures have in common.

    Args:
        tasks: the tasks of the job, each once.
        suffixes: for each task ``Job.id_suffix``.
        retry_errors: rows in ``errors/`` are made again.
    """

    def __init__(self, tasks: tuple[Task, ...], suffixes: list[bytes], retry_errors: bool) -> None:
        self._tasks, self._suffixes, self._retry_errors = tasks, suffixes, retry_errors

    @classmethod
    def of(cls, job: Job, retry_errors: bool) -> PlainRows | None:
        """Return the object for a job, or None if the job has no task, or one task twice."""
        tasks = tuple(job.tasks)
        is_plain = 0 < len(set(tasks)) == len(tasks)
        return cls(tasks, [job.id_suffix(task) for task in tasks], retry_errors) if is_plain else None

    def take(self, columns: list[RefColumns], others: Iterable[ImageRef], completed: CompletedIds) -> Taken:
        """Plan the pictures in ``columns`` of which all rows are completed, or none is.

        Pictures that several references name, and those with a row in ``errors/`` that is made again, are left.

        Args:
            columns: references without tasks, of one hash bucket.
            others: all other references of the bucket.
            completed: the ids of the bucket.
        """
        if not columns:
            return Taken(None, [], Count())
        refs, left = split_repeated(concat(columns), others)
        if not len(completed.answered) and not len(completed.failed):
            return self._taken(refs, left, 0, 0)
        ids = [id_column(b"".join(digest[:ID_BYTES] for digest in refs.digests(suffix))) for suffix in self._suffixes]
        answered = np.array([is_in(column, completed.answered) for column in ids])
        failed = np.array([is_in(column, completed.failed) for column in ids])
        is_left = failed.any(axis=0) if self._retry_errors else np.zeros(refs.num_rows, bool)
        num_done = (answered | failed).sum(axis=0)
        is_done, is_pending = (num_done == len(ids)) & ~is_left, (num_done == 0) & ~is_left
        left += refs.take(~is_done & ~is_pending).refs()
        return self._taken(refs.take(is_pending), left, int(is_done.sum()), int((failed & ~answered)[:, is_done].sum()))

    def _taken(self, pending: RefColumns, left: list[ImageRef], done: int, failed: int) -> Taken:
        """Return the pending pictures, what is left, and the count of these and of ``done`` pictures."""
        num_tasks, num_rows = len(self._tasks), pending.num_rows
        count = Count(num_rows, num_tasks * num_rows, num_tasks * done, inputs=num_rows + done, failed_before=failed)
        return Taken(pending._replace(tasks=self._tasks) if num_rows else None, left, count)
