"""``annotate_on_spark``: the resumable job as a function, with patterns, manifests or a DataFrame as its input."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection

from ...models.tasks import Annotator, Task
from ...transforms.annotation.job import AnnotateToParquet
from ...transforms.core.records import ImageRef
from ...transforms.core.shuffle import MAX_BUFFERED, pack, unpack
from ...transforms.io.column_types import stored_type, without_nulls
from ...transforms.planning.limit import LimitPictures
from ..building.inputs import build_inputs
from ..building.job import min_shards
from ..building.pipeline import read_inputs
from ..local_runner.signals import interruptible
from ..options.inputs import add_input_options
from ..options.job import SPARK
from ..options.tasks import add_task_options
from .cluster import context_of, tasks_at_once
from .rows import Source, arrow_types, build_source, refs_of, select
from .run import AddInputs, check_client_options, run_job

PACKED = "packed"

logger = logging.getLogger(__name__)


def annotate_on_spark(
    spark: Any,
    inputs: Any,
    tasks: Sequence[Task],
    annotator: Annotator,
    output: str,
    *,
    manifest: str | Sequence[str] = (),
    path_column: str | None = None,
    keep_columns: Sequence[str] = (),
    limit: int | None = None,
    beam_options: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Annotate pictures into a folder of Parquet files on a Spark cluster, and return the record of the run.

    Requests that have a row in the output already are skipped. Driver and executors need the pictures and the output.

    Args:
        inputs: a file, folder, glob or URL, or a list of these; or a DataFrame with a row for each picture; or None.
        manifest: tables with a row for each picture, as for ``--manifest``.
        path_column: the column with the path or the URL of the picture; by default path of a DataFrame, url of tables.
        keep_columns: columns of the DataFrame or the tables to copy to the rows; SOURCE=NAME renames one.
        beam_options: options of Beam as words of a command line, for the clients of buckets.
        options: other arguments of ``AnnotateToParquet``, such as ``shard_size`` and ``sampling``.

    Raises:
        ValueError: if an argument is bad, an input matches no picture, or another run writes to the output.
        RunStopped: if the run stopped early. The same call resumes it.
        KeyboardInterrupt: at SIGINT or SIGTERM in the main thread, once what is answered is published.
    """
    options = {**_defaults(spark, beam_options), **options}
    with tempfile.TemporaryDirectory(prefix="moondream-beam-") as folder:
        if hasattr(inputs, "mapInArrow"):
            read = _read_dataframe(inputs, tasks, path_column or "path", keep_columns, folder)
        else:
            read = _read_inputs(inputs, tasks, output, manifest, path_column, keep_columns)
        job = AnnotateToParquet(read.tasks, annotator, output, columns=read.kept, **options)
        with interruptible():  # PySpark kills all tasks at SIGINT, and their last answers would be lost.
            return run_job(spark, job, lambda pipeline: _limited(read.add_inputs(pipeline), limit), beam_options)


def _defaults(spark: Any, beam_options: Sequence[str]) -> dict[str, Any]:
    """Check the options of Beam, and return the arguments that the job has if they are not given."""
    check_client_options(beam_options)
    return {"min_shards": min_shards(tasks_at_once(context_of(spark))), "about": {"engine": SPARK}}


class _Read(NamedTuple):
    """What to annotate: the tasks, the kept columns, and what adds the references to a pipeline."""

    tasks: Sequence[Task]
    kept: Sequence[pa.Field]
    add_inputs: AddInputs


def _read_dataframe(df: Any, tasks: Sequence[Task], path: str, keep_columns: Sequence[str], folder: str) -> _Read:
    """Write the references of a DataFrame to files in ``folder``, and return how to read them."""
    source = build_source(df, tasks, path, None, keep_columns)
    selected = select(df, source)
    kept = _kept_fields(selected, source)
    _write_refs(selected, source, kept, folder)
    return _Read(source.spec.job_tasks(), kept, _PackedRefs(folder).read)


def _limited(refs: PCollection[ImageRef], limit: int | None) -> PCollection[ImageRef]:
    return refs if limit is None else refs | "Limit" >> LimitPictures(limit)


def _read_inputs(
    inputs: str | Sequence[str] | None,
    tasks: Sequence[Task],
    output: str,
    manifest: str | Sequence[str],
    path_column: str | None,
    keep_columns: Sequence[str],
) -> _Read:
    """Return patterns and manifests as the command's own options would give them, with the same checks."""
    parser = argparse.ArgumentParser()
    add_input_options(parser)
    add_task_options(parser)
    names = parser.parse_args([])
    names.inputs = [inputs] if isinstance(inputs, str) else list(inputs or ())
    names.manifest = [manifest] if isinstance(manifest, str) else list(manifest)
    names.tasks, names.output = list(tasks), output
    names.uri_column, names.keep_columns = path_column, ",".join(keep_columns)
    given = build_inputs(names)
    for note in given.columns.notes:
        logger.warning(note)
    return _Read(given.tasks, given.columns.kept, lambda pipeline: read_inputs(pipeline, given))


def _kept_fields(selected: Any, source: Source) -> tuple[pa.Field, ...]:
    """Return the kept columns of a DataFrame with the types in which rows store them."""
    types = arrow_types(selected)
    return tuple(pa.field(name, without_nulls(stored_type(types[of]))) for of, name in source.keep)


def _write_refs(selected: Any, source: Source, kept: Sequence[pa.Field], folder: str) -> None:
    """Write the references of a DataFrame from ``select`` to files in ``folder``, each a pack."""
    types = {of: field.type for (of, _), field in zip(source.keep, kept, strict=True)}

    def packs(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = [
                column.cast(types.get(name, column.type))
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ]
            refs = [ref for ref, _ in refs_of(pa.RecordBatch.from_arrays(columns, batch.schema.names), source)]
            for start in range(0, len(refs), MAX_BUFFERED):
                packed = pa.array([pack(refs[start : start + MAX_BUFFERED])], pa.binary())
                yield pa.RecordBatch.from_arrays([packed], [PACKED])

    rows = selected.mapInArrow(packs, f"{PACKED} binary").toLocalIterator()
    for number, row in enumerate(rows):
        Path(folder, str(number)).write_bytes(row[PACKED])


class _PackedRefs:
    """The references in the files that ``_write_refs`` has written to a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self, pipeline: beam.Pipeline) -> PCollection[ImageRef]:
        """Return the references."""
        paths = sorted(str(path) for path in Path(self.folder).iterdir())
        return pipeline | "Packs" >> beam.Create(paths) | "Read packs" >> beam.FlatMap(_read_pack)


def _read_pack(path: str) -> list[ImageRef]:
    return unpack(Path(path).read_bytes())
