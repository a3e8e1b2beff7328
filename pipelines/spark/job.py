"""``annotate_on_spark``: the resumable job as a function, with patterns, manifests or a DataFrame as its input."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ...transforms.annotation.job import SHARD_SIZE, AnnotateToParquet
from ...transforms.core.records import IGNORE_PROFILES, ColourProfiles, ImageRef
from ...transforms.core.shuffle import MAX_BUFFERED, pack, unpack
from ...transforms.images.fetch import Fetcher
from ...transforms.io.column_types import stored_type, without_nulls
from ...transforms.output.answer_journal import CHECKPOINT_S
from ...transforms.output.layout import new_run_name
from ...transforms.planning.limit import LimitPictures
from ..options.inputs import Inputs, build_inputs
from ..options.job import min_shards
from .cluster import context_of, task_cpus
from .rows import Source, arrow_types, build_source, refs_of, select
from .run import AddInputs, run_job

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
    sampling: Sampling = DEFAULT_SAMPLING,
    limit: int | None = None,
    allow_private_addresses: bool = False,
    colour_profiles: ColourProfiles = IGNORE_PROFILES,
    beam_options: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Annotate pictures into a folder of Parquet files on a Spark cluster, and return the record of the run.

    Requests that have a row in the output already are skipped. So a job that was interrupted can be run again, here or
    with the command. Driver and executors must all reach the pictures and the output.

    Args:
        spark: the session; not one of Spark Connect.
        inputs: a file, folder, glob or URL, or a list of these; or a DataFrame with a row for each picture; or None.
        manifest: tables with a row for each picture, as for ``--manifest``.
        path_column: the column of the DataFrame (default: path) or of the manifests (default: url) with the path or
            the URL of the picture.
        keep_columns: columns of the DataFrame or the manifests to copy to the rows; SOURCE=NAME renames one.
        limit: annotate only so many pictures, the same ones in every run.
        beam_options: options of Beam as words of a command line, for the clients of buckets.
        options: ``shard_size``, ``retry_errors``, ``retry_changed``, ``dedup``, ``max_failure_rate``, ``checkpoint_s``
            and ``about`` of ``AnnotateToParquet``.

    Raises:
        ValueError: if an argument has a bad value, an input matches no picture, or another run writes to the output.
        RunStopped: if the run stopped early. The same call resumes it.
    """
    context = context_of(spark)
    workers = max(1, context.defaultParallelism // task_cpus(context))
    options = {"shard_size": SHARD_SIZE, "checkpoint_s": CHECKPOINT_S, "min_shards": min_shards(workers), **options}
    how = {"sampling": sampling, "fetch": Fetcher(allow_private_addresses), "colour_profiles": colour_profiles}
    with tempfile.TemporaryDirectory(prefix="moondream-beam-") as folder:
        if hasattr(inputs, "mapInArrow"):
            source = build_source(inputs, tasks, path_column or "path", None, keep_columns)
            selected = select(inputs, source)
            asked, kept = source.spec.job_tasks(), _kept_fields(selected, source)
            _write_refs(selected, source, kept, folder)
            add_inputs: AddInputs = _PackedRefs(folder).read
        else:
            given = _inputs(inputs, tasks, output, manifest, path_column, keep_columns, colour_profiles)
            asked, kept, add_inputs = given.tasks, given.columns.kept, given.read
            for note in given.columns.notes:
                logger.warning(note)
        job = AnnotateToParquet(
            asked,
            annotator,
            output,
            columns=kept,
            run=new_run_name(),
            **{"about": {"engine": "spark"}, **options, **how},
        )
        return run_job(spark, job, lambda pipeline: _limited(add_inputs(pipeline), limit), beam_options)


def _limited(refs: PCollection[ImageRef], limit: int | None) -> PCollection[ImageRef]:
    return refs if limit is None else refs | "Limit" >> LimitPictures(limit)


def _inputs(
    inputs: str | Sequence[str] | None,
    tasks: Sequence[Task],
    output: str,
    manifest: str | Sequence[str],
    path_column: str | None,
    keep_columns: Sequence[str],
    colour_profiles: ColourProfiles,
) -> Inputs:
    """Return patterns and manifests as the command's own options would give them, with the same checks."""
    names = argparse.Namespace(
        inputs=[inputs] if isinstance(inputs, str) else list(inputs or ()),
        manifest=[manifest] if isinstance(manifest, str) else list(manifest),
        tasks=list(tasks),
        output=output,
        uri_column=path_column,
        keep_columns=",".join(keep_columns),
        allow_private_addresses=False,
        colour_profiles=colour_profiles,
        reasoning=False,
        **dict.fromkeys(("prompt_column", "image_column", "filename_column", "root")),
    )
    return build_inputs(names)


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
