"""Convert references, annotations and failures to and from Beam rows with a schema, such as Beam YAML needs."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Optional

import apache_beam as beam
import pyarrow as pa
from apache_beam.portability.api import schema_pb2
from apache_beam.pvalue import PCollection, Row
from apache_beam.typehints.arrow_type_compatibility import ATOMIC_TYPE_TO_PYARROW
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import schema_from_element_type

from ...models.tasks import Task
from ..io.column_types import is_bytes, is_list, is_text
from ..io.containers.location import ImageCell, container_of, locate
from ..io.uris import basename, check_uri, escape_non_utf8, join_uri
from .kept.names import name_columns
from .prompt_templates import fill_templates, named_columns, unescape_braces
from .records import Annotation, Failure, ImageRef, as_picture
from .row_schema import ANNOTATION_SCHEMA, OWN_COLUMNS, annotation_schema, failure_schema

URI, FILENAME, PROBLEM = "uri", "filename", "problem"
# Where an image lies inside an archive or a Parquet file; null for all others.
PLACE = ("byte_offset", "byte_size", "row_group")
REF_SCHEMA = pa.schema(
    [
        pa.field(URI, pa.string(), nullable=False),
        pa.field(FILENAME, pa.string(), nullable=False),
        (PROBLEM, pa.string()),
        *((name, pa.int64()) for name in PLACE),
    ]
)
_INTEGERS = (schema_pb2.BYTE, schema_pb2.INT16, schema_pb2.INT32, schema_pb2.INT64)
_PYTHON_TYPES = (
    (pa.types.is_boolean, bool),
    (lambda kind: pa.types.is_integer(kind) and kind != pa.uint64(), int),
    (pa.types.is_floating, float),
    (is_text, str),
    (is_bytes, bytes),
    # As text, because some of Beam's file writers can't write timestamps.
    (lambda kind: kind == ANNOTATION_SCHEMA.field("created_at").type, str),
)


class TaskSpec(NamedTuple):
    """The ``tasks`` for each row's picture, whose prompts may name fields in braces, and the ``columns`` to keep.

    ``sources`` are the names of the fields that are kept as ``columns``; if empty, they have the names of the columns.
    """

    tasks: tuple[Task, ...]
    columns: tuple[pa.Field, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def named_fields(self) -> tuple[str, ...]:
        """The fields that the prompts name, each once."""
        return _named_fields(self.tasks)

    @property
    def kept_fields(self) -> Sequence[str]:
        """The fields that are kept, in the order of ``columns``."""
        return self.sources or [column.name for column in self.columns]

    def job_tasks(self) -> tuple[Task, ...]:
        """Return the tasks for the job. If no prompt names a field, ``{{`` and ``}}`` become single braces."""
        return self.tasks if self.named_fields else tuple(map(unescape_braces, self.tasks))


@lru_cache
def _named_fields(tasks: tuple[Task, ...]) -> tuple[str, ...]:
    # Asked for each row.
    return tuple(named_columns(tasks))


def build_task_spec(rows: PCollection[Any], tasks: Sequence[Task], keep: Sequence[str]) -> TaskSpec:
    """Return the tasks and the fields to ``keep``, checked against the schema of ``rows``.

    ``keep`` has the names of fields, or SOURCE=NAME to rename one; see ``name_columns``.

    Raises:
        ValueError: if ``rows`` have no schema, lack ``uri`` or a field that a prompt or ``keep`` names, if ``uri``,
            ``filename`` or ``problem`` is not text, or if a field to keep is not text, number, boolean or bytes.
    """
    try:
        element_type: Any = rows.element_type
        fields = {field.name: field.type for field in schema_from_element_type(element_type).fields}
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the input has no rows with named fields: take them from ReadImages, ReadManifest or MapToFields"
        ) from error
    spec = TaskSpec(tuple(tasks))
    names = name_columns(keep, OWN_COLUMNS)
    for name in (URI, *spec.named_fields, *(name.source for name in names)):
        if name not in fields:
            raise ValueError(f"the rows have no field {name!r}; they have {', '.join(fields)}: name one of these")
    for name in (URI, FILENAME, PROBLEM):
        if name in fields and fields[name].atomic_type != schema_pb2.STRING:
            raise ValueError(f"field {name} must be text: convert it with MapToFields")
    for name in PLACE:
        if name in fields and fields[name].atomic_type not in _INTEGERS:
            raise ValueError(f"field {name} must be a whole number: convert it with MapToFields")
    for note in filter(None, (name.note() for name in names)):
        logging.getLogger(__name__).warning(note)
    columns = tuple(_arrow_field(name.source, fields[name.source]).with_name(name.name) for name in names)
    annotation_schema(columns)
    return spec._replace(columns=columns, sources=tuple(name.source for name in names))


class RowsToRefs(beam.PTransform[PCollection[Any], PCollection[ImageRef]]):
    """Convert each row to one reference with ``to_ref``, with the tasks and kept fields of ``spec``.

    Relative paths are relative to the working directory of the process that builds the pipeline.
    """

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec, self.base = spec, os.getcwd()

    def expand(self, rows: PCollection[Any]) -> PCollection[ImageRef]:
        """Return one reference for each row."""
        return rows | "As references" >> beam.Map(to_ref, self.spec, self.base)


class RefsToRows(beam.PTransform[PCollection[ImageRef], PCollection[Any]]):
    """Convert references to rows with the fields of ``REF_SCHEMA`` (``problem`` is null if none), then ``columns``.

    ``columns``: the manifest's columns that the references keep, with the values in ``ImageRef.columns``.

    Raises:
        ValueError: as ``row_type`` does.
    """

    def __init__(self, columns: Sequence[pa.Field] = ()) -> None:
        super().__init__()
        self.schema = pa.schema([*REF_SCHEMA, *(column.with_nullable(True) for column in columns)])
        self.row_type = row_type(self.schema)

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[Any]:
        """Return one row for each reference to a picture, and for each folder that could not be listed."""
        pictures = refs | "Pictures only" >> beam.FlatMap(lambda ref: filter(None, [as_picture(ref)]))
        return pictures | "As rows" >> beam.Map(_ref_row, self.schema.names).with_output_types(self.row_type)


class AsRows(beam.PTransform[PCollection[Any], PCollection[Any]]):
    """Convert annotations or failures to Beam rows with a schema, which ``WriteToParquet`` and other sinks write.

    The fields are the columns of ``data/`` or ``errors/``. ``created_at`` is text in ISO 8601.

    Args:
        kind: ``Annotation``, or ``Failure`` for the failures.
        columns: the manifest's columns that the rows keep; they follow at the end.

    Raises:
        ValueError: if ``kind`` is another class.
        TypeError: in the run, if an element is not of this kind.
    """

    def __init__(self, kind: type[Annotation] | type[Failure] = Annotation, columns: Sequence[pa.Field] = ()) -> None:
        super().__init__()
        if kind not in (Annotation, Failure):
            raise ValueError("AsRows: give Annotation or Failure, with the columns that the rows keep")
        self.kind = kind
        kept = [column.with_nullable(True) for column in columns]
        self.schema = failure_schema(kept) if kind is Failure else annotation_schema(kept)

    def expand(self, rows: PCollection[Any]) -> PCollection[Any]:
        """Return one row for each annotation or failure."""
        to_row = beam.Map(_result_row, self.kind, self.schema.names)
        return rows | "As rows" >> to_row.with_output_types(row_type(self.schema))


def row_type(schema: pa.Schema) -> RowTypeConstraint:
    """Return the type of Beam rows with the columns of ``schema``.

    Raises:
        ValueError: if a column has a type that rows don't support, or a name that is not a Python identifier, starts
            with ``_`` or occurs twice.
    """
    for field in schema:
        if not field.name.isidentifier() or field.name.startswith("_"):
            raise ValueError(
                f"column {field.name!r} can't be a field: rename it with letters, digits and _, and a letter first:"
                f" {field.name}=NAME"
            )
        if schema.names.count(field.name) > 1:
            raise ValueError(
                f"column {field.name}: the rows already have a field of this name; rename it: {field.name}=NAME"
            )
    return RowTypeConstraint.from_fields([(field.name, _field_type(field)) for field in schema])


def to_ref(row: Any, spec: TaskSpec, base: str) -> ImageRef:
    """Return the reference of a row with the field ``uri``, and maybe ``filename`` and ``problem``.

    A relative path is relative to the folder ``base``. The tasks are those of ``spec`` with the row's fields filled in,
    or empty if no prompt names a field and none is kept. If the row has a ``problem``, or an empty or invalid
    ``uri``, the reference has a ``problem``. If a prompt names an empty field, only its task has a problem.
    """
    named, kept = spec.named_fields, spec.kept_fields
    values = {name: getattr(row, name, None) for name in (URI, FILENAME, PROBLEM, *named, *kept)}
    uri, problem, inside = values[URI] or "", values[PROBLEM] or "", None
    if not uri:
        # A hash of the other fields keeps rows without a URI apart.
        uri = f"row:{hashlib.sha256(repr(values).encode('utf-8', 'backslashreplace')).hexdigest()[:20]}"
        problem = problem or "field uri is empty: fill it in"
    filename = values[FILENAME] or ""
    try:
        if not problem:
            check_uri(uri)
            uri = _place_of(uri, base)
            inside = locate(uri, *(getattr(row, name, None) for name in PLACE))
        filename = filename or basename(uri)
    except ValueError as error:
        problem = problem or str(error)
    ref = ImageRef(uri, filename, problem=problem, inside=inside)
    if not (named or kept):
        return ref
    tasks, problems = fill_templates(spec.tasks, values, problem=problem)
    columns = (tuple(values[name] for name in kept),) * len(tasks) if kept else ()
    return ref._replace(tasks=tasks, columns=columns, problems=problems)


def _place_of(uri: str, base: str) -> str:
    """Return the URI with one spelling for each local file. The name of an image inside another file stays as it is."""
    if container := container_of(uri):
        return join_uri(base, container) + uri[len(container) :]
    return join_uri(base, uri)


def _ref_row(ref: ImageRef, names: Sequence[str]) -> Any:
    problem = ref.problem
    if _field_value(ref.uri) != ref.uri:
        problem = (
            problem
            or "its name is not UTF-8, which Beam rows can't hold: rename the file, or use moondream-beam annotate"
        )
    group = ref.inside.row_group if isinstance(ref.inside, ImageCell) else None
    kept = ref.columns[0] if ref.columns else (None,) * (len(names) - len(REF_SCHEMA))
    return _row(names, (ref.uri, ref.filename, problem or None, *ref.byte_range, group, *kept))


def _result_row(row: Annotation | Failure, kind: type, names: Sequence[str]) -> Any:
    if not isinstance(row, kind):
        found = type(row).__name__
        raise TypeError(f"AsRows({kind.__name__}) got an element of type {found}: write AsRows({found})")
    kept = row.columns or (None,) * (len(names) - (len(row) - 1))
    return _row(names, (*row[:-1], *kept))


def _row(names: Sequence[str], values: Sequence[Any]) -> Any:
    return Row(**dict(zip(names, map(_field_value, values), strict=True)))


def _field_value(value: Any) -> Any:
    """Return a value as Beam rows hold it: text with ``escape_non_utf8``, a timestamp as ISO 8601 text."""
    if isinstance(value, str):
        return escape_non_utf8(value)
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


def _field_type(field: pa.Field) -> Any:
    """Return the Python type of a Beam field for an Arrow field; raise ValueError if there is none."""
    python_type: Any = next((plain for matches, plain in _PYTHON_TYPES if matches(field.type)), None)
    if python_type is None and is_list(field.type):
        python_type = Sequence[_field_type(field.type.value_field.with_nullable(False))]  # type: ignore[misc]
    elif python_type is None and pa.types.is_struct(field.type):
        python_type = RowTypeConstraint.from_fields([(member.name, _field_type(member)) for member in field.type])
    elif python_type is None:
        raise ValueError(f"column {field.name} is {field.type}: convert it to text, numbers, booleans or bytes")
    # Beam does not support X | None.
    return Optional[python_type] if field.nullable else python_type  # noqa: UP045


def _arrow_field(name: str, field_type: schema_pb2.FieldType) -> pa.Field:
    if field_type.WhichOneof("type_info") != "atomic_type":
        raise ValueError(f"field {name} can't be kept: convert it to text, a number, a boolean or bytes")
    return pa.field(name, ATOMIC_TYPE_TO_PYARROW[field_type.atomic_type])
