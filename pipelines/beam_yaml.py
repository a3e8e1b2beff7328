"""The transforms for Beam YAML: they take arguments of YAML types, and rows with named fields go in and out.

``providers.yaml`` lists them for Beam.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection, Row
from apache_beam.transforms.resources import parse_resource_hints

from ..models.tasks import Query
from ..transforms.annotation import annotate, job
from ..transforms.core.beam_schema import REF_SCHEMA, AsRows, RefsToRows, RowsToRefs, build_task_spec, row_type
from ..transforms.core.records import IGNORE_PROFILES, Annotation, Failure, check_colour_profiles
from ..transforms.images.fetch import Fetcher
from ..transforms.inputs import images, manifest, manifest_columns
from ..transforms.inputs.patterns.unmatched import first_unmatched
from ..transforms.output.layout import SHARD_SIZE
from ..transforms.output.reader import read_failures
from .building.inputs import find_image_column_of, find_tables
from .building.yaml import (
    GOOD_OUTPUT,
    RECORD_SCHEMA,
    build_annotator,
    parse_error_output,
    parse_sampling,
    parse_tasks,
    parse_texts,
)
from .options.suggestions import did_you_mean

PROVIDERS = Path(__file__).with_name("providers.yaml")


class _NamedArguments:
    """A transform whose error about an unknown argument has the transform's name in YAML, and a suggestion."""

    def __new__(cls, *values: Any, **arguments: Any) -> Any:
        """Check the names of the arguments.

        Raises:
            ValueError: if the transform has no argument of one of these names.
        """
        parts = [
            vars(part)["__init__"] for part in cls.__mro__ if part.__module__ == __name__ and "__init__" in vars(part)
        ]
        known = [
            name
            for part in parts
            for name, parameter in list(signature(part).parameters.items())[1:]
            if parameter.kind is not Parameter.VAR_KEYWORD
        ]
        for name in arguments:
            if name not in known:
                hint = did_you_mean(name, known) or ";"
                raise ValueError(f"{cls.__name__} has no argument {name}{hint} it has {', '.join(known)}")
        return super().__new__(cls)


class ReadImages(_NamedArguments, beam.PTransform[PBegin, PCollection[Any]]):
    """List pictures as rows with the fields ``uri``, ``filename`` and ``problem`` (null, or why there is no picture).

    Args:
        path: a file, a folder, a glob or a URL, on disk or in a bucket, or a list of these.

    Raises:
        ValueError: if there is no path, or a path is malformed or matches no picture.
    """

    def __init__(self, path: str | Sequence[str]) -> None:
        super().__init__()
        paths = parse_texts("path", path)
        self.images = images.ReadImages(*paths)
        if (nothing := first_unmatched(paths)) is not None:
            raise ValueError(f"path {nothing.pattern}: {nothing.reason}")

    def expand(self, pbegin: PBegin) -> PCollection[Any]:
        """Read the references and convert them to rows."""
        return pbegin | self.images | RefsToRows()


class ReadManifest(_NamedArguments, beam.PTransform[PBegin, PCollection[Any]]):
    """List the pictures of manifests as rows with the fields ``uri``, ``filename``, ``problem`` and chosen columns.

    Args:
        path: a table, a folder or a glob of these, or a dataset of the Hugging Face hub; or a list.
        uri_column: column with the path or URL of the picture; url by default, unless there is an image_column.
        image_column: column of Parquet or Arrow with the picture, as bytes or {bytes, path}; by default the only one.
        filename_column: column with the name of the picture; by default the last part of its URI.
        columns: columns that become fields of the rows; SOURCE=NAME gives the field another name.
        root: the folder or bucket of relative paths, by default that of the manifest; it finds names without extension.
        split: the split to read of hf://datasets/OWNER/NAME, or of a folder of datasets.save_to_disk.
        config: the config (subset) of hf://datasets/OWNER/NAME.

    Raises:
        ValueError: if a file or a column does not exist, or a column cannot become a field.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        uri_column: str | None = None,
        filename_column: str | None = None,
        columns: Sequence[str] = (),
        image_column: str | None = None,
        root: str | None = None,
        split: str | None = None,
        config: str | None = None,
    ) -> None:
        super().__init__()
        paths = [table for each in parse_texts("path", path) for table in find_tables(each, split, config)]
        if not paths:
            raise ValueError("path: no manifest is given; give at least one")
        if not uri_column and not image_column:
            image_column = find_image_column_of(paths)
        # Columns need a task. This one is a placeholder: the tasks are arguments of Annotate.
        uri_column = uri_column or (None if image_column else "url")
        found = manifest_columns.Columns(uri_column, filename_column, (Query(),), image=image_column, root=root)
        found = manifest_columns.check_columns(paths, found, parse_texts("columns", columns), taken=REF_SCHEMA.names)
        for note in found.notes:
            logging.getLogger(__name__).warning(note)
        self.manifests, self.rows = manifest.ReadManifests(paths, found), RefsToRows(found.kept)

    def expand(self, pbegin: PBegin) -> PCollection[Any]:
        """Read the manifests and convert their rows."""
        return pbegin | self.manifests | self.rows


class _AnnotatingTransform(_NamedArguments, beam.PTransform[PCollection[Any], Any]):
    """The common part of Annotate and AnnotateToParquet: tasks, model, sampling, and the output for failures."""

    def __init__(
        self,
        tasks: Sequence[Any] | None = None,
        model: str | None = None,
        revision: str | None = None,
        tokenizer: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        keep_fields: Sequence[str] = (),
        allow_private_addresses: bool = False,
        colour_profiles: str = IGNORE_PROFILES,
        error_handling: Mapping[str, str] | None = None,
        openai: Mapping[str, Any] | None = None,
        transformers: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.tasks, self.keep = parse_tasks(tasks), parse_texts("keep_fields", keep_fields)
        self.errors = parse_error_output(error_handling)
        how = {"device": device, "dtype": dtype, "batch_size": batch_size}
        self.annotator = build_annotator(model, revision, tokenizer, how, openai, transformers)
        self.sampling, self.fetch = parse_sampling(sampling), Fetcher(allow_private_addresses)
        self.colour_profiles = check_colour_profiles(colour_profiles)


class Annotate(_AnnotatingTransform):
    """Answer each task on the picture of each row. Failures go to the output that ``error_handling`` names.

    The input rows need a field ``uri``.

    Args:
        tasks: a list of {caption: short|normal|long}, {query: TEXT}, {detect: OBJECT}, {point: OBJECT}, or of texts,
            which are queries. A text may contain field names in braces. {query: TEXT, reasoning: true} lets the model
            reason before the answer.
        model: a name on the Hugging Face hub, a folder on disk or in a bucket, a .safetensors file, or tiny.
        revision: a branch, tag or commit on the hub; for other weights, the release of Moondream 2.
        tokenizer: a tokenizer.json that replaces the model's own.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        batch_size: number of requests in one batch; by default as many as memory holds.
        sampling: a mapping with max_tokens, temperature, top_p and repetition_penalty.
        keep_fields: fields of the input to copy to the rows; SOURCE=NAME copies one under another name.
        allow_private_addresses: allow http(s) requests to private networks.
        colour_profiles: ignore, or srgb to convert pictures from their ICC profiles to sRGB.
        error_handling: {output: NAME}. It is required.
        openai: {base_url: URL or a list of URLs} of vision servers that answer instead. The mapping may have
            api_key_env, max_pixels, caption_prompts, timeout_s, prices and max_cost too. Then model is the server's
            name of the model, revision its version for the rows, and batch_size the number of requests in flight.
        transformers: {} for a model of the library transformers, which answers instead. The mapping may have
            max_pixels, caption_prompts and prompt_template. Then model is a folder or a name on the hub.

    Raises:
        ValueError: if an argument has a bad value, or ``error_handling`` is missing.
    """

    def expand(self, rows: PCollection[Any]) -> dict[str, PCollection[Any]]:
        """Return the output ``good`` with the answers, and the output for failures."""
        if self.errors is None:
            raise ValueError(
                "error_handling is missing: add error_handling: {output: NAME}, and read NAME in another transform"
            )
        asked = build_task_spec(rows, self.tasks, self.keep)
        annotated = annotate.Annotate(
            asked.job_tasks(),
            self.annotator,
            sampling=self.sampling,
            fetch=self.fetch,
            colour_profiles=self.colour_profiles,
        )
        annotations, failures = rows | "Rows" >> RowsToRefs(asked) | "Ask" >> annotated
        return {
            GOOD_OUTPUT: annotations | "Annotations" >> AsRows(Annotation, asked.columns),
            self.errors: failures | "Failures" >> AsRows(Failure, asked.columns),
        }


class AnnotateToParquet(_AnnotatingTransform):
    """Answer each task on the picture of each row, and write Parquet files. A second run adds only what is missing.

    The input rows need a field ``uri``. Each has a row in the result for each task; rows that ask the same of the same
    picture share one request. The output is one row about the run with the fields ``run``, ``output``, ``inputs``,
    ``pictures``, ``requests``, ``pending``, ``done``, ``retried``, ``annotations``, ``failures`` and ``balanced``.
    Failures are in ``errors/``. With ``error_handling``, the failures of this run are another output of the transform.

    Args:
        output: the folder for the files, on disk or in a bucket.
        shard_size: approximate number of pictures in each file.
        retry_errors: ask again the requests whose rows are in errors/.
        retry_changed: ask again about pictures whose bytes have changed since their rows were written.
        dedup: ask once for pictures with equal bytes in the whole run.
        max_failure_rate: share of failures (0 to 1) above which the run stops early; 0: no limit.
        asking: the arguments of Annotate.

    Raises:
        ValueError: if an argument has a bad value.
    """

    def __init__(
        self,
        output: str,
        shard_size: int = SHARD_SIZE,
        retry_errors: bool = False,
        retry_changed: bool = False,
        dedup: bool = False,
        max_failure_rate: float = 0.0,
        **asking: Any,
    ) -> None:
        super().__init__(**asking)
        (self.output,) = parse_texts("output", output)
        self.options: dict[str, Any] = {
            "shard_size": shard_size,
            "retry_errors": retry_errors,
            "retry_changed": retry_changed,
            "dedup": dedup,
            "max_failure_rate": max_failure_rate,
        }
        self.hints: dict[str, Any] = {}

    def with_resource_hints(self, **hints: Any) -> AnnotateToParquet:
        """Set Beam's resource hints for the step that runs the model, and for no other step.

        Raises:
            ValueError: if Beam does not know a hint or its value.
        """
        parse_resource_hints(hints)
        self.hints.update(hints)
        return self

    def expand(self, rows: PCollection[Any]) -> PCollection[Any] | dict[str, PCollection[Any]]:
        """Return the row about the run; with ``error_handling``, that output and the output for failures."""
        asked = build_task_spec(rows, self.tasks, self.keep)
        whole_job = job.AnnotateToParquet(
            asked.job_tasks(),
            self.annotator,
            self.output,
            sampling=self.sampling,
            columns=asked.columns,
            fetch=self.fetch,
            colour_profiles=self.colour_profiles,
            **self.options,
        ).with_resource_hints(**self.hints)
        record = rows | "Rows" >> RowsToRefs(asked) | "Job" >> whole_job
        summary = record | "Record" >> beam.Map(_record_row, whole_job.output).with_output_types(
            row_type(RECORD_SCHEMA)
        )
        if self.errors is None:
            return summary
        failures = record | "Read failures" >> beam.FlatMap(
            lambda done, out: read_failures(out, done["run"]), whole_job.output
        )
        return {GOOD_OUTPUT: summary, self.errors: failures | "Failures" >> AsRows(Failure, asked.columns)}


def _record_row(record: Mapping[str, Any], output: str) -> Any:
    """Return the record of a run as a row with the fields of RECORD_SCHEMA."""
    values = {**record["counts"], **record, "output": output}
    return Row(**{name: values[name] for name in RECORD_SCHEMA.names})
