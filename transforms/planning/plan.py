"""What is left to do, cut into shards: the references minus what the output already holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection, TaggedOutput
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue

from ...models.tasks import Task
from ..core.errors import output_errors
from ..core.records import ImageRef, Job
from ..core.shuffle import PackBy, Packed, Packer, hash_bucket, pack, ref_bucket, unpack, unpack_all
from ..core.summary import Count, sum_counts
from ..images.fetch import Fetcher
from ..monitoring.progress import ProgressFiles
from ..output.lock import acquire
from .completed import PackIds, other_runs_parts, short_id, split_completed
from .dedup import KeyByContentHash, Named
from .locality import read_order, shard_key
from .requeue import remove_failures

Shard = tuple[int, Iterable[ImageRef]]
FORGET = "forget"


class Plan(NamedTuple):
    """The shards of a run, and how much they hold and pass over: one ``Count`` each."""

    shards: PCollection[Shard]
    counts: PCollection[Count]


class PlanShards(beam.PTransform[PCollection[ImageRef], Plan]):
    """Join the references with the ids in the output, drop what is done, and group the rest into shards.

    About ``shard_size`` pictures make a shard, and there are at least ``min_shards`` of them. With ``retry_errors`` a
    row in ``errors/`` is not done, and is taken out of there. With ``dedup``, by which they are read, pictures of the
    same bytes share a shard.
    The output is this run's from here on.
    """

    def __init__(
        self,
        job: Job,
        output: str,
        shard_size: int,
        min_shards: int,
        *,
        retry_errors: bool = False,
        dedup: Fetcher | None = None,
    ) -> None:
        super().__init__()
        self.job, self.output, self.shard_size, self.min_shards = job, output, shard_size, min_shards
        self.retry_errors, self.dedup = retry_errors, dedup

    def expand(self, refs: PCollection[ImageRef]) -> Plan:
        """Everything that is compared, counted and grouped is an id or a path, and goes in packs."""
        wanted = refs | "Pack references" >> beam.ParDo(PackBy(ref_bucket)).with_output_types(Packed)
        left = (wanted, self._done(refs.pipeline)) | "Join" >> beam.CoGroupByKey()
        left = left | "What is left" >> beam.ParDo(_DropCompleted(self.job)).with_outputs(FORGET, main="left")
        counts = (
            left["left"]
            | "Their counts" >> beam.Map(lambda left: left[1])
            | "Count" >> beam.CombineGlobally(sum_counts)
            | "Note" >> beam.Map(_note, self.output, self.job.run)
        )
        forgotten = (
            left[FORGET]
            | "By file" >> beam.GroupByKey()
            | "Forget failures" >> beam.Map(lambda file, output: remove_failures(output, *file), self.output)
            | "Forgotten" >> beam.CombineGlobally(sum)
        )
        named = left["left"] | "References" >> beam.Map(lambda left: left[0]).with_output_types(Packed)
        if self.dedup:
            named = named | "Name by bytes" >> KeyByContentHash(self.dedup, self.output, self.job.run, counts)
            named = named | "Pack names" >> beam.ParDo(PackBy(_number_of_named)).with_output_types(Packed)
        # Nothing is asked again before its old row is gone.
        sides = (AsSingleton(counts), self.shard_size, self.min_shards, AsSingleton(forgotten))
        shards = (
            named
            | "Packs" >> beam.Values()
            | "Draw shards" >> beam.ParDo(_AssignShards(), *sides).with_output_types(Packed)
            | "Group into shards" >> beam.GroupByKey()
            | "Unpack" >> beam.MapTuple(lambda number, packs: (number, sorted(unpack_all(packs), key=read_order)))
        )
        return Plan(shards, counts)

    def _done(self, pipeline: beam.Pipeline) -> PCollection[Packed]:
        return (
            pipeline
            | "Output" >> beam.Create([self.output])
            | "Claim" >> beam.Map(_claim, self.job.run)
            | "List parts" >> beam.FlatMap(other_runs_parts, but_of=self.job.run)
            | "Spread parts" >> beam.Reshuffle()
            | "Pack ids" >> beam.ParDo(PackIds(with_files=self.retry_errors)).with_output_types(Packed)
        )


class _DropCompleted(beam.DoFn):
    """A bucket of references and done ids to what is left of them, with its count, and the failures to forget."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def process(self, group: tuple[int, tuple[Iterable[bytes], Iterable[bytes]]]) -> Iterator[Any]:
        number, (packs, done_packs) = group
        same: dict[str, list[ImageRef]] = {}
        for ref in unpack_all(packs):
            same.setdefault(ref.key, []).append(ref)
        if not same:
            return
        done, failed = split_completed(done_packs)
        named, counts = [], []
        for refs in same.values():
            ref = merge(refs, self.job.tasks)
            asked = {self.job.id_of(ref, task): task for task in ref.tasks}
            left = {name: task for name, task in asked.items() if short_id(name) not in done}
            again = {name: failed[short_id(name)] for name in asked if short_id(name) in failed}
            yield from (TaggedOutput(FORGET, (file, name)) for name, files in again.items() for file in files)
            counts.append(Count(bool(left), len(left), len(asked) - len(left), len(again.keys() & left.keys())))
            if left:
                named.append((shard_key(ref), ref.with_tasks(tuple(left.values()))))
        yield (number, pack(named)), sum_counts(counts)


class _AssignShards(beam.DoFn):
    """Packs of named references to packs of those of one shard."""

    def start_bundle(self) -> None:
        self._packer = Packer()

    def process(self, packed: bytes, count: Count, size: int, least: int, _: int) -> Iterator[Packed]:
        for name, ref in unpack(packed):
            yield from self._packer.add(shard_of(name, count, size, least), ref)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from map(GlobalWindows.windowed_value, self._packer.flush())


def _claim(output: str, run: str) -> str:
    acquire(output, run)
    return output


def _note(count: Count, output: str, run: str) -> Count:
    """How many shards there are hangs on it: of a run that is planned anew the first plan counts."""
    with output_errors(output):
        return ProgressFiles(output, run).plan(count)


def _number_of_named(named: Named) -> int:
    return hash_bucket(named[0])


def merge(refs: Iterable[ImageRef], tasks: Sequence[Task]) -> ImageRef:
    """References to one picture, one or more, as one, with all that any of them asks, each once."""
    same = sorted(refs, key=lambda ref: (ref.filename, repr(ref.columns)))
    asked: dict[Task, tuple[Any, ...]] = {}
    for ref in same:
        for task in ref.tasks or tasks:
            asked.setdefault(task, ref.columns_of(task))
    columns = tuple(asked.values()) if any(asked.values()) else ()
    return same[0]._replace(tasks=tuple(asked), columns=columns)


def shard_of(name: str, count: Count, shard_size: int, min_shards: int) -> int:
    """The shard of a picture: drawn by its name in hex, the same on every worker and in every retry."""
    shards = max(math.ceil(count.pictures / shard_size), min(min_shards, count.pictures))
    return int(name, 16) % shards
