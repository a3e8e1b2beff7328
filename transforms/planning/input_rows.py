"""Rows of the input that name the same picture: one reference for all of them, which has a task for each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ...models.tasks import Task
from ..core.kept.values import kept_digest
from ..core.records import ImageRef, Job, WantedRow
from ..core.shuffle import unpack_all


def merge(refs: Sequence[ImageRef], tasks: Sequence[Task]) -> ImageRef:
    """Merge one or more references to the same picture into one that has the rows of all of them.

    Rows that are equal in task and kept values are numbered from 0, in the order of their file names. The result does
    not depend on the order of ``refs``. A reference without tasks has all of ``tasks``, those of the job.
    """
    own = refs[0].tasks or tuple(tasks)
    if len(refs) == 1 and len(set(own)) == len(own):
        return refs[0]._replace(tasks=own)
    ordered = sorted(refs, key=lambda ref: (ref.filename, *map(kept_digest, ref.columns), repr(ref.tasks), ref.uri))
    seen: Counter[tuple[Task, str]] = Counter()
    rows: list[WantedRow] = []
    for row in (row for ref in ordered for row in ref.rows(tasks)):
        equal = row.task, kept_digest(row.columns)
        rows.append(row._replace(number=seen[equal]))
        seen[equal] += 1
    # A row with a problem may not know the place of its picture.
    first = next((ref for ref in ordered if not ref.has_nothing_to_ask), ordered[0])
    return first.with_rows(rows)


def rows_of(refs: Iterable[ImageRef], job: Job) -> tuple[ImageRef, dict[str, WantedRow]]:
    """Return one or more references to the same picture as one, and the rows that the job makes of it, by id."""
    ref = merge(list(refs), job.tasks)
    return ref, {job.row_id(ref, row): row for row in ref.rows(job.tasks)}


def merge_all(packs: Iterable[bytes], tasks: Sequence[Task]) -> Iterator[ImageRef]:
    """Yield one merged reference for each picture in packs of references. Skipped things are left out."""
    yield from (merge(refs, tasks) for refs in by_picture(packs))


def by_picture(packs: Iterable[bytes]) -> Iterable[list[ImageRef]]:
    """Return the references in packs, those to one picture in one list. Skipped things are left out."""
    same: dict[str, list[ImageRef]] = {}
    for ref in unpack_all(packs):
        if not ref.skipped:
            same.setdefault(ref.key, []).append(ref)
    return same.values()
