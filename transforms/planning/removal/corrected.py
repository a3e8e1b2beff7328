"""Find rows of errors/ about an input that has been corrected since, and remove them.

The id of a row that could not be asked, such as one with an empty question, differs from that of the corrected request.
So the corrected request gets a row of its own, and the old row in ``errors/`` would stay for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.pvalue import PCollection

from ...core.records import Job
from ...core.shuffle import PackBy, Packed, hash_bucket, unpack_all
from ...inputs.lists.table_files import list_manifests
from ...io.uris import display_uri
from ...output.layout import ERRORS, kind_of
from ...output.reader import Reader
from ..completed import MAX_BATCH_ROWS, other_runs_parts
from ..input_rows import by_picture, rows_of
from .requeue import remove_rows

STAGE = "list"


class ListFailure(NamedTuple):
    """A row of ``errors/`` of stage ``list``, and the path of its file."""

    key: str
    id: str
    task: str
    uri: str
    path: str


class RemoveCorrected(beam.PTransform[PCollection[str], PCollection[int]]):
    """Remove the rows of ``errors/`` about inputs that were corrected, and yield their number.

    The input is the path of the output, once it is locked. Removed are rows of stage ``list`` that the job no longer
    makes, if it has the same task on the same picture, or reads the manifest whose line the row names.

    Args:
        refs: packs of references by hash bucket.
        manifests: absolute patterns of the manifests that the references come from.
    """

    def __init__(self, job: Job, output: str, refs: PCollection[Packed], manifests: Sequence[str]) -> None:
        super().__init__()
        self.job, self.output, self.refs, self.manifests = job, output, refs, manifests

    def expand(self, locked: PCollection[str]) -> PCollection[int]:
        """Join references and failures by hash bucket, and rewrite the files of ``errors/``."""
        failures = (
            locked
            | "List errors" >> beam.FlatMap(_list_errors, self.job.run)
            | "Spread errors" >> beam.Reshuffle()
            | "Read failures" >> beam.ParDo(_ReadFailures())
            | "Pack failures" >> beam.ParDo(PackBy(_bucket_of)).with_output_types(Packed)
        )
        return (
            (self.refs, failures)
            | "Join failures" >> beam.CoGroupByKey()
            | "Corrected" >> beam.ParDo(_FindCorrected(self.job, self.manifests))
            | "Failures by file" >> beam.GroupByKey()
            | "Remove corrected" >> beam.Map(_remove, self.output, self.job.run)
            | "Sum corrected" >> beam.CombineGlobally(sum)
        )


class _ReadFailures(beam.DoFn):
    """Yield the rows of stage ``list`` in a published file of ``errors/``."""

    def setup(self) -> None:
        self._reader = Reader()

    def process(self, path: str) -> Iterator[ListFailure]:
        with self._reader.open(path) as file:
            columns = ["key", "id", "task", "uri", "stage"]
            for batch in pq.ParquetFile(file).iter_batches(MAX_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    if row.pop("stage") == STAGE:
                        yield ListFailure(**row, path=path)


class _FindCorrected(beam.DoFn):
    """Yield (file, id) for each failure in one hash bucket whose input has been corrected."""

    def __init__(self, job: Job, manifests: Sequence[str]) -> None:
        self.job, self.manifests = job, manifests

    def start_bundle(self) -> None:
        self._places: set[str] | None = None

    def process(self, group: tuple[int, tuple[Iterable[bytes], Iterable[bytes]]]) -> Iterator[tuple[str, str]]:
        _, (packs, failure_packs) = group
        failures: list[ListFailure] = list(unpack_all(failure_packs))
        if not failures:
            return
        keys = {failure.key for failure in failures}
        wanted = {refs[0].key: rows_of(refs, self.job)[1] for refs in by_picture(packs) if refs[0].key in keys}
        for failure in failures:
            rows = wanted.get(failure.key, {})
            same_task = any(row.task.name == failure.task for row in rows.values())
            if failure.id not in rows and (same_task or (not rows and self._is_read(failure.uri))):
                yield failure.path, failure.id

    def _is_read(self, uri: str) -> bool:
        """Return whether a URI names a line of a manifest of this run, such as ``list.csv#4``."""
        path, mark, line = uri.rpartition("#")
        if not (mark and line.isdecimal() and self.manifests):
            return False
        if self._places is None:
            found = (path for pattern in self.manifests for path in list_manifests(pattern))
            self._places = {display_uri(path) for path in found}
        return path in self._places


def _list_errors(output: str, run: str) -> list[str]:
    return [path for path in other_runs_parts(output, run) if kind_of(path) == ERRORS]


def _remove(path_and_ids: tuple[str, Iterable[str]], output: str, run: str) -> int:
    return remove_rows(*path_and_ids, output, run)


def _bucket_of(failure: ListFailure) -> int:
    return hash_bucket(failure.key)
