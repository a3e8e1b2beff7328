"""What is left to do, cut into shards: the references minus what the output already holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsSingleton, PCollection

from ..models.tasks import Task
from .records import ImageRef, Job
from .write import matching

Shard = tuple[int, Iterable[ImageRef]]
IDS_AT_ONCE = 65_536


class Plan(NamedTuple):
    """The shards of a run, and how much they hold and pass over: one ``Count`` each."""

    shards: PCollection[Shard]
    counts: PCollection[Count]


class Count(NamedTuple):
    """How much there is to do: pictures with something left, their requests, and requests already in the output."""

    pictures: int = 0
    pending: int = 0
    done: int = 0


class PlanShards(beam.PTransform[PCollection[ImageRef], Plan]):
    """Join the references with the ids in the output, drop what is done, and group the rest into shards.

    About ``shard_size`` pictures make a shard, and there are at least ``min_shards`` of them.
    """

    def __init__(self, job: Job, output: str, shard_size: int, min_shards: int) -> None:
        super().__init__()
        self.job, self.output, self.shard_size, self.min_shards = job, output, shard_size, min_shards

    def expand(self, refs: PCollection[ImageRef]) -> Plan:
        """Everything that is compared, counted and grouped is an id or a path."""
        wanted = refs | "Key by picture" >> beam.WithKeys(lambda ref: ref.key)
        done = (
            refs.pipeline
            | "Output" >> beam.Create([self.output])
            | "List parts" >> beam.FlatMap(list_parts, but_of=self.job.run)
            | "Spread parts" >> beam.Reshuffle()
            | "Read ids" >> beam.FlatMap(read_ids)
        )
        open_refs = (wanted, done) | "Join" >> beam.CoGroupByKey() | "What is left" >> beam.ParDo(_Leave(self.job))
        counts = (
            open_refs
            | "Count a picture" >> beam.Map(lambda left: left[1])
            | "Count" >> beam.CombineGlobally(sum_counts)
        )
        shards = (
            open_refs
            | "Drop what is done" >> beam.Filter(lambda left: left[1].pending > 0)
            | "Draw a shard"
            >> beam.Map(
                lambda left, count, size, least: (shard_of(left[0], count, size, least), left[0]),
                AsSingleton(counts),
                self.shard_size,
                self.min_shards,
            )
            | "Group into shards" >> beam.GroupByKey()
        )
        return Plan(shards, counts)


class _Leave(beam.DoFn):
    """One picture's references and done ids to what is left of it, with its count."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def process(self, group: tuple[str, tuple[Iterable[ImageRef], Iterable[str]]]) -> Iterator[tuple[ImageRef, Count]]:
        _, (refs, done) = group
        ref = merge(refs, self.job.tasks)
        if ref is not None:
            done = frozenset(done)
            left = tuple(task for task in ref.tasks if self.job.id_of(ref, task) not in done)
            yield ref._replace(tasks=left), Count(bool(left), len(left), len(ref.tasks) - len(left))


def merge(refs: Iterable[ImageRef], tasks: Sequence[Task]) -> ImageRef | None:
    """References to one picture as one, with all that any of them asks, each once; None when there is none."""
    same = sorted(refs, key=lambda ref: ref.filename)
    if not same:
        return None
    asked = dict.fromkeys(task for ref in same for task in (ref.tasks or tasks))
    return same[0]._replace(tasks=tuple(asked))


def sum_counts(counts: Iterable[Count]) -> Count:
    """The sum of counts, field by field."""
    return Count(*(sum(column) for column in zip(Count(), *counts, strict=True)))


def shard_of(ref: ImageRef, count: Count, shard_size: int, min_shards: int) -> int:
    """The shard of a picture: drawn by its key, the same on every worker and in every retry."""
    shards = max(math.ceil(count.pictures / shard_size), min(min_shards, count.pictures))
    return int(ref.key, 16) % shards


def list_parts(output: str, but_of: str) -> list[str]:
    """The published files of an output, data and errors, but for those of one run.

    A run does not look at its own: a runner that plans it anew, for a lost worker, must come to the same shards.
    """
    paths = matching(*(FileSystems.join(output, kind, "*.parquet") for kind in ("data", "errors")))
    own = re.compile("part-" + re.escape(but_of) + r"-\d{5,}(-\d+)?\.parquet")
    return [path for path in paths if not own.fullmatch(FileSystems.split(path)[1])]


def read_ids(path: str) -> Iterator[tuple[Any, Any]]:
    """The (key, id) of every row of a published file, a batch at a time."""
    with FileSystems.open(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(IDS_AT_ONCE, columns=["key", "id"]):
            yield from zip(batch["key"].to_pylist(), batch["id"].to_pylist(), strict=True)
