"""Find rows of errors/ about an input that has been corrected since, and remove them.

The id of a row that could not be asked, such as one with an empty question, differs from that of the corrected request.
So the corrected request gets a row of its own, and the old row in ``errors/`` would stay for ever.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.pvalue import PCollection

from ...core.records import Job
from ...core.shuffle import PackBy, Packed, hash_bucket, unpack_all
from ...inputs.lists.table_files import list_manifests
from ...io.object_stores.file_systems import FileSystems
from ...io.uris import display_uri
from ...output.layout import ERRORS, kind_of
from ..completed import MAX_BATCH_ROWS, other_runs_parts
from ..input_rows import by_picture, rows_of
from .requeue import remove_group

STAGE = "list"
_NOTHING = re.compile(r"(?!)")


class ListFailure(NamedTuple):
    """A row of ``errors/`` of stage ``list``, and the path of its file."""

    key: str
    id: str
    task: str
    uri: str
    message: str
    path: str


class RemoveCorrected(beam.PTransform[PCollection[str], PCollection[int]]):
    """Remove the rows of ``errors/`` about inputs that were corrected, and yield their number.

    The input is the path of the output, once it is locked. Removed are rows of stage ``list`` that the job no longer
    makes, if it asks the same task of the same picture, or reads the manifest whose line the row names.

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
            | "Remove corrected" >> beam.Map(remove_group, self.output, self.job.run)
            | "Sum corrected" >> beam.CombineGlobally(sum)
        )


class _ReadFailures(beam.DoFn):
    """Yield the rows of stage ``list`` in a published file of ``errors/``."""

    def process(self, path: str) -> Iterator[ListFailure]:
        with FileSystems.open(path) as file:
            columns = ["key", "id", "task", "uri", "message", "stage"]
            for batch in pq.ParquetFile(file).iter_batches(MAX_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    if row.pop("stage") == STAGE:
                        yield ListFailure(**row, path=path)


class _FindCorrected(beam.DoFn):
    """Yield (file, id) for each failure in one hash bucket whose input has been corrected."""

    def __init__(self, job: Job, manifests: Sequence[str]) -> None:
        self.job, self.manifests = job, manifests

    def start_bundle(self) -> None:
        self._manifest_lines: tuple[re.Pattern[str], re.Pattern[str]] | None = None

    def process(self, group: tuple[int, tuple[Iterable[bytes], Iterable[bytes]]]) -> Iterator[tuple[str, str]]:
        _, (packs, failure_packs) = group
        failures: list[ListFailure] = list(unpack_all(failure_packs))
        if not failures:
            return
        keys = {failure.key for failure in failures}
        wanted = {refs[0].key: rows_of(refs, self.job)[1] for refs in by_picture(packs) if refs[0].key in keys}
        for failure in failures:
            rows = wanted.get(failure.key, {})
            # A request of another model has another id, and its row is as broken.
            still_broken = any(row.problem for row in rows.values() if row.task.name == failure.task)
            if failure.id in rows or still_broken:
                continue
            if any(row.task.name == failure.task for row in rows.values()) or self._is_read(failure):
                yield failure.path, failure.id

    def _is_read(self, failure: ListFailure) -> bool:
        """Return whether a failure is about a line of a manifest of this run: its URI or its message names the line."""
        if self._manifest_lines is None:
            paths = [path for pattern in self.manifests for path in list_manifests(pattern)]
            urls, names = map(display_uri, paths), map(posixpath.basename, paths)
            self._manifest_lines = (_lines_of(urls, "$"), _lines_of(names, ": ")) if paths else (_NOTHING, _NOTHING)
        of_uri, of_message = self._manifest_lines
        return bool(of_uri.match(failure.uri) or of_message.match(failure.message))


def _lines_of(names: Iterable[str], end: str) -> re.Pattern[str]:
    """Return a pattern of a line of one of these manifests, such as ``list.csv#4``, followed by ``end``."""
    return re.compile(f"(?:{'|'.join(map(re.escape, names))})#[0-9]+{end}")


def _list_errors(output: str, run: str) -> list[str]:
    return [path for path in other_runs_parts(output, run) if kind_of(path) == ERRORS]


def _bucket_of(failure: ListFailure) -> int:
    return hash_bucket(failure.key)
