"""The transforms as Beam YAML names them: arguments that YAML can say, rows with named fields in and out.

``providers.yaml``, beside this file, lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection, Row
from apache_beam.transforms.resources import parse_resource_hints

from ..models.moondream.annotator import Moondream
from ..models.moondream.checkpoints.hub import OFFICIAL
from ..models.tasks import Query
from ..transforms.annotation import annotate, job
from ..transforms.core.beam_schema import AnnotationsToRows, FailuresToRows, RefsToRows, RowsToRefs, asked_of, row_type
from ..transforms.images.fetch import Fetcher
from ..transforms.inputs import images, manifest
from ..transforms.output.reader import read_failures
from .options.yaml import GOOD, errors_of, sampling_of, tasks_of, texts_of

PROVIDERS = Path(__file__).with_name("providers.yaml")
RECORD_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("run", "output")),
        *(
            pa.field(name, pa.int64(), nullable=False)
            for name in ("pictures", "pending", "done", "retried", "annotations", "failures")
        ),
        pa.field("balanced", pa.bool_(), nullable=False),
    ]
)


class ReadImages(beam.PTransform[PBegin, PCollection[Any]]):
    """References to pictures as rows: ``uri``, ``filename``, and a ``problem`` where there is none to look for.

    Args:
        path: a file, a folder, a glob or a URL, or a list of such; on disk or in a bucket.

    Raises:
        ValueError: there is no path, or one that can't be any, or matches no picture.
    """

    def __init__(self, path: str | Sequence[str]) -> None:
        super().__init__()
        paths = texts_of("path", path)
        self.images = images.ReadImages(*paths)
        if (nothing := images.first_unmatched(paths)) is not None:
            raise ValueError(f"path {nothing}: no picture there; check it")

    def expand(self, pbegin: PBegin) -> PCollection[Any]:
        """Pictures by pattern."""
        return pbegin | self.images | RefsToRows()


class ReadManifest(beam.PTransform[PBegin, PCollection[Any]]):
    """The pictures that manifests list, a row each: ``uri``, ``filename``, ``problem`` and some of their columns.

    Args:
        path: a .csv, .tsv, .jsonl, .ndjson or .parquet, a glob of such, or a list; on disk or in a bucket.
        uri_column: where the picture lies; url unless there is an image_column.
        image_column: of Parquet, the pictures themselves: bytes, or bytes and a path.
        filename_column: what it is called; else the end of its URI.
        columns: those that become fields.

    Raises:
        ValueError: there is no such file, no such column, or one that can't be a field.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        uri_column: str | None = None,
        filename_column: str | None = None,
        columns: Sequence[str] = (),
        image_column: str | None = None,
    ) -> None:
        super().__init__()
        paths = texts_of("path", path)
        if not paths:
            raise ValueError("path: there is no manifest")
        # A reference keeps columns beside what is asked of it: here something stands for that.
        if image_column is None:
            uri_column = uri_column or "url"
        found = manifest.Columns(uri_column, filename_column, (Query(),), image=image_column)
        found = manifest.check_columns(paths, found, texts_of("columns", columns))
        self.manifests, self.rows = manifest.ReadManifests(paths, found), RefsToRows(found.kept)

    def expand(self, pbegin: PBegin) -> PCollection[Any]:
        """Row by row of the manifests."""
        return pbegin | self.manifests | self.rows


class _Asking(beam.PTransform[PCollection[Any], Any]):
    """What Annotate and AnnotateToParquet have in common: what is asked, of which model, and where failures go."""

    def __init__(
        self,
        tasks: Sequence[Any] | None = None,
        model: str = OFFICIAL,
        revision: str | None = None,
        tokenizer: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        keep_fields: Sequence[str] = (),
        allow_private_addresses: bool = False,
        error_handling: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.tasks, self.keep = tasks_of(tasks), texts_of("keep_fields", keep_fields)
        self.errors = errors_of(error_handling)
        self.annotator = Moondream(model, revision, tokenizer, device=device, dtype=dtype, batch_size=batch_size)
        self.sampling, self.fetch = sampling_of(sampling), Fetcher(allow_private_addresses)


class Annotate(_Asking):
    """Rows with a field ``uri`` in, a row for each task on each picture out; failures at the output that is named.

    Args:
        tasks: a list of {caption: short|normal|long}, {query: TEXT}, {detect: OBJECT}, {point: OBJECT}, or of plain
            texts, which are queries. A text may name fields in braces.
        model: a repository on the hub, a folder, a bucket, a .safetensors, or tiny.
        revision: a branch, tag or commit on the hub; of other weights, their release.
        tokenizer: a tokenizer.json in the place of the model's own.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        batch_size: requests answered at once; by memory unless given.
        sampling: max_tokens, temperature, top_p, repetition_penalty.
        keep_fields: fields of the input that rows are to bear.
        allow_private_addresses: let http(s) reach private networks.
        error_handling: {output: NAME}; it has to be given.

    Raises:
        ValueError: an argument makes no sense, or it is not said where failures go.
    """

    def expand(self, rows: PCollection[Any]) -> dict[str, PCollection[Any]]:
        """Row by row, with two outputs."""
        if self.errors is None:
            raise ValueError(
                "say where failures go: error_handling: {output: NAME}, and read NAME in another transform"
            )
        asked = asked_of(rows, self.tasks, self.keep)
        annotated = annotate.Annotate(asked.job_tasks(), self.annotator, sampling=self.sampling, fetch=self.fetch)
        annotations, failures = rows | "Rows" >> RowsToRefs(asked) | "Ask" >> annotated
        return {
            GOOD: annotations | "Annotations" >> AnnotationsToRows(asked.columns),
            self.errors: failures | "Failures" >> FailuresToRows(),
        }


class AnnotateToParquet(_Asking):
    """Rows with a field ``uri`` in, a folder of Parquet files written; run again, it does only what is missing.

    Out comes one row with what the run did: ``run``, ``output``, ``pictures``, ``pending``, ``done``, ``retried``,
    ``annotations``, ``failures``, ``balanced``. Failures are in ``errors/``; with ``error_handling``, those of this run
    are its output too.

    Args:
        output: the folder, on disk or in a bucket.
        shard_size: pictures a file, about.
        retry_errors: ask again what is in errors/.
        dedup: ask pictures of the same bytes once in the run.
        max_failure_rate: above 0, the share of failures at which the run stops early.
        asking: all that Annotate takes.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        output: str,
        shard_size: int = job.SHARD_SIZE,
        retry_errors: bool = False,
        dedup: bool = False,
        max_failure_rate: float = 0.0,
        **asking: Any,
    ) -> None:
        super().__init__(**asking)
        (self.output,) = texts_of("output", output)
        self.options: dict[str, Any] = {
            "shard_size": shard_size,
            "retry_errors": retry_errors,
            "dedup": dedup,
            "max_failure_rate": max_failure_rate,
        }
        self.hints: dict[str, Any] = {}

    def with_resource_hints(self, **hints: Any) -> AnnotateToParquet:
        """Hints for the step that runs the model, and for no other.

        Raises:
            ValueError: Beam knows no such hint, or it has no such value.
        """
        parse_resource_hints(hints)
        self.hints.update(hints)
        return self

    def expand(self, rows: PCollection[Any]) -> PCollection[Any] | dict[str, PCollection[Any]]:
        """The whole job."""
        asked = asked_of(rows, self.tasks, self.keep)
        whole = job.AnnotateToParquet(
            asked.job_tasks(),
            self.annotator,
            self.output,
            sampling=self.sampling,
            columns=asked.columns,
            fetch=self.fetch,
            **self.options,
        ).with_resource_hints(**self.hints)
        record = rows | "Rows" >> RowsToRefs(asked) | "Job" >> whole
        told = record | "Record" >> beam.Map(_record_row, whole.output).with_output_types(row_type(RECORD_SCHEMA))
        if self.errors is None:
            return told
        failures = record | "Read failures" >> beam.FlatMap(
            lambda done, out: read_failures(out, done["run"]), whole.output
        )
        return {GOOD: told, self.errors: failures | "Failures" >> FailuresToRows()}


def _record_row(record: Mapping[str, Any], output: str) -> Any:
    values = {**record["counts"], **record, "output": output}
    return Row(**{name: values[name] for name in RECORD_SCHEMA.names})
