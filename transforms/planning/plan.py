"""Plan a run: drop the requests that the output has rows of already, and group the rest into shards."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ..core.errors import output_errors
from ..core.records import KEY_DIGITS, ImageRef, Job
from ..core.row_schema import annotation_schema
from ..core.shuffle import (
    ColumnsPacker,
    PackBy,
    Packed,
    Packer,
    PackRefs,
    hash_bucket,
    pack,
    pack_columns,
    remainders,
    unpack_all,
    unpack_parts,
)
from ..core.summary import Count, sum_counts
from ..images.fetch import Fetcher
from ..io.uris import display_uri
from ..monitoring.progress import ProgressFiles
from ..output.answer_journal import publish_kept
from ..output.locks.lock import acquire, active_runs
from .completed import CompletedIds, PackIds, other_runs_parts, short_id
from .dedup import KeyByContentHash, KeyedRef
from .input_rows import rows_of
from .locality import read_order, shard_key
from .plain_rows import PlainRows
from .removal.changed import Changed, RemoveChanged
from .removal.corrected import RemoveCorrected
from .removal.requeue import remove_group

Shard = tuple[int, Iterable[ImageRef]]
RETRIED = "retried"

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """The shards of a run, as (number, references), and one ``Count`` of what the run has to do and what it skips."""

    shards: PCollection[Shard]
    counts: PCollection[Count]


class PlanShards(beam.PTransform[PCollection[ImageRef], Plan]):
    """Lock the output, drop the completed requests, and group the remaining references into shards.

    Args:
        shard_size: the approximate number of images in a shard.
        min_shards: the minimum number of shards, if there are so many images.
        retry_errors: requests with a row in ``errors/`` are not completed, and their rows are removed. Rows about
            inputs that were corrected since are removed too.
        manifests: absolute patterns of the manifests that the references come from, for ``retry_errors``.
        dedup: reads all images, so that images of the same bytes get into the same shard. None: no image is read.
        changed: reads the images that have rows. Requests whose image has changed since are not completed, and their
            rows are removed. None: no image is read.
    """

    def __init__(
        self,
        job: Job,
        output: str,
        shard_size: int,
        min_shards: int,
        *,
        retry_errors: bool = False,
        manifests: Sequence[str] = (),
        dedup: Fetcher | None = None,
        changed: Fetcher | None = None,
    ) -> None:
        super().__init__()
        self.job, self.output, self.shard_size, self.min_shards = job, output, shard_size, min_shards
        self.retry_errors, self.manifests, self.dedup, self.changed = retry_errors, manifests, dedup, changed

    def expand(self, refs: PCollection[ImageRef]) -> Plan:
        """Join references and completed ids by hash bucket. Both travel in packs, which take little memory."""
        wanted = refs | "Pack references" >> beam.ParDo(PackRefs()).with_output_types(Packed)
        locked = refs.pipeline | "Output" >> beam.Create([self.output]) | "Lock" >> beam.Map(_lock, self.job)
        removed_before = self._remove_changed(locked, wanted), self._remove_corrected(locked, wanted)
        changed, corrected = (AsSingleton(removed) for removed in removed_before)
        joined = (wanted, self._completed(locked, changed, corrected)) | "Join" >> beam.CoGroupByKey()
        drop_completed = beam.ParDo(_DropCompleted(self.job, self.retry_errors)).with_outputs(RETRIED, main="pending")
        pending = joined | "Drop completed" >> drop_completed
        counts = (
            pending["pending"]
            | "Counts of packs" >> beam.Map(lambda pair: pair[1])
            | "Count" >> beam.CombineGlobally(sum_counts)
            | "Record plan" >> beam.Map(_record_plan, changed, corrected, self.output, self.job.run)
        )
        removed = (
            pending[RETRIED]
            | "By file" >> beam.GroupByKey()
            | "Remove failures" >> beam.Map(remove_group, self.output, self.job.run)
            | "Count removed" >> beam.CombineGlobally(sum)
        )
        keyed = pending["pending"] | "References" >> beam.Map(lambda pair: pair[0]).with_output_types(Packed)
        if self.dedup:
            keyed = keyed | "Key by content" >> KeyByContentHash(self.dedup, self.output, self.job.run, counts)
            keyed = keyed | "Pack by content" >> beam.ParDo(PackBy(_number_of_keyed)).with_output_types(Packed)
        # Shards wait for the removal, so that no request is sent while its old row is still there.
        sides = (AsSingleton(counts), self.shard_size, self.min_shards, AsSingleton(removed))
        shards = (
            keyed
            | "Packs" >> beam.Values()
            | "Assign shards" >> beam.ParDo(_AssignShards(), *sides).with_output_types(Packed)
            | "Group into shards" >> beam.GroupByKey()
            | "Unpack" >> beam.MapTuple(_in_read_order)
        )
        return Plan(shards, counts)

    def _remove_changed(self, locked: PCollection[str], wanted: PCollection[Packed]) -> PCollection[Changed]:
        """Remove the rows of images that have changed, if asked to."""
        if self.changed is None:
            return locked | "Nothing changed" >> beam.Map(lambda _: Changed())
        return locked | "Changed" >> RemoveChanged(self.job, self.output, wanted, self.changed)

    def _remove_corrected(self, locked: PCollection[str], wanted: PCollection[Packed]) -> PCollection[int]:
        """Remove the rows about inputs that were corrected, if asked to."""
        if not self.retry_errors:
            return locked | "Nothing corrected" >> beam.Map(lambda _: 0)
        return locked | "Corrected" >> RemoveCorrected(self.job, self.output, wanted, self.manifests)

    def _completed(self, locked: PCollection[str], *removed: AsSingleton) -> PCollection[Packed]:
        """Read the ids in the published files of other runs, after the rows in ``removed`` are removed."""
        return (
            locked
            | "List parts"
            >> beam.FlatMap(lambda output, run, *_: other_runs_parts(output, run), self.job.run, *removed)
            | "Spread parts" >> beam.Reshuffle()
            | "Pack ids" >> beam.ParDo(PackIds()).with_output_types(Packed)
        )


class _DropCompleted(beam.DoFn):
    """Drop completed rows from one hash bucket of references and ids.

    The main output is a pack of keyed references that have rows left, with their ``Count``. The output ``RETRIED``
    is (file, id) for each row in ``errors/`` that must be removed, because its request is done again.
    """

    def __init__(self, job: Job, retry_errors: bool) -> None:
        self.job, self.retry_errors = job, retry_errors

    def setup(self) -> None:
        self._plain = PlainRows.of(self.job, self.retry_errors)

    def process(self, group: tuple[int, tuple[Iterable[bytes], Iterable[bytes]]]) -> Iterator[Any]:
        number, (packs, completed_packs) = group
        columns, refs = unpack_parts(packs)
        if not columns and not refs:
            return
        completed = CompletedIds(completed_packs)
        if self._plain:
            pending, left, count = self._plain.take(columns, refs, completed)
            yield (number, pack_columns(pending) if pending else pack([])), count
        else:
            left = [ref for part in columns for ref in part.refs()]
        if refs or left:
            yield from self._one_by_one(number, refs + left, *completed.split)

    def _one_by_one(
        self, number: int, refs: list[ImageRef], answered: set[bytes], failed: dict[bytes, list[str]]
    ) -> Iterator[Any]:
        """Yield what ``process`` yields, for references to any pictures."""
        kept_failures = set() if self.retry_errors else failed.keys() - answered
        completed = answered | kept_failures if kept_failures else answered
        same: dict[str, list[ImageRef]] = {}
        keyed: list[KeyedRef] = []
        counts: list[Count] = []
        for ref in refs:
            if ref.skipped:
                counts.append(Count.of_skipped(ref))
            else:
                same.setdefault(display_uri(ref.uri), []).append(ref)
        for group in same.values():
            ref, wanted = rows_of(group, self.job)
            left = {id: row for id, row in wanted.items() if short_id(id) not in completed}
            retried = {id: failed[short_id(id)] for id in wanted if self.retry_errors and short_id(id) in failed}
            yield from (TaggedOutput(RETRIED, (file, id)) for id, files in retried.items() for file in files)
            num_retried = len(retried.keys() & left.keys())
            # A picture with one row of the input, the usual case, has each task once.
            several = len(group) > 1 or ref.origins
            shared = len(left) - len({row.task for row in left.values()}) if several else 0
            count = Count(bool(left), len(left), len(wanted) - len(left), num_retried, len(group), shared)
            failed_before = sum(short_id(id) in kept_failures for id in wanted) if kept_failures else 0
            counts.append(count._replace(failed_before=failed_before))
            if left:
                keyed.append((shard_key(ref), ref if len(left) == len(wanted) else ref.with_rows(list(left.values()))))
        yield (number, pack(keyed)), sum_counts(counts)


class _AssignShards(beam.DoFn):
    """Repack references by the number of their shard: references as columns, and pairs of a key and a reference."""

    def start_bundle(self) -> None:
        self._packer, self._columns = Packer(), ColumnsPacker()

    def process(self, packed: bytes, count: Count, size: int, least: int, _: int) -> Iterator[Packed]:
        columns, keyed = unpack_parts([packed])
        shards = num_shards(count, size, least)
        for refs in columns:
            yield from self._columns.add(refs, remainders(refs.digests(), KEY_DIGITS // 2, shards))
        for key, ref in keyed:
            yield from self._packer.add(int(key, 16) % shards, ref)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from map(GlobalWindows.windowed_value, chain(self._columns.flush(), self._packer.flush()))


def _lock(output: str, job: Job) -> str:
    """Lock the output, and publish what dead runs have kept. Return the output."""
    acquire(output, job.run)
    with output_errors(output):
        active = active_runs(output)
        if kept := publish_kept(output, annotation_schema(job.columns), lambda run: run not in (job.run, *active)):
            logger.info("published %d answers that a run had kept before it was stopped", kept)
    return output


def _record_plan(count: Count, changed: Changed, corrected: int, output: str, run: str) -> Count:
    """Record the count once per run. The number of shards depends on it, so a run that is planned again must reuse it.

    Raises:
        RunStopped: if the count cannot be written to the output.
    """
    with output_errors(output):
        count = count._replace(changed=changed.rows, unread=changed.unread, corrected=corrected)
        return ProgressFiles(output, run).record_plan(count)


def _number_of_keyed(keyed: KeyedRef) -> int:
    return hash_bucket(keyed[0])


def shard_of(key: str, count: Count, shard_size: int, min_shards: int) -> int:
    """Return the shard of an image, from 0. It is the same on every worker and in every attempt of a run.

    Args:
        key: the shard key of the image, in hex.
        count: what the run has to do; ``pictures`` must not be 0.
    """
    return int(key, 16) % num_shards(count, shard_size, min_shards)


def num_shards(count: Count, shard_size: int, min_shards: int) -> int:
    """Return the number of shards of a run; 0 if ``pictures`` is 0."""
    return max(math.ceil(count.pictures / shard_size), min(min_shards, count.pictures))


def _in_read_order(number: int, packs: Iterable[bytes]) -> Shard:
    refs = list(unpack_all(packs))
    # Nearly always all images have the same place in that order.
    return number, sorted(refs, key=read_order) if any(ref.inside for ref in refs) else refs
