"""References, annotations and failures as Beam's rows with named fields, for Beam YAML and others that want schemas."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Optional

import apache_beam as beam
import pyarrow as pa
from apache_beam.portability.api import schema_pb2
from apache_beam.pvalue import PCollection, Row
from apache_beam.typehints.arrow_type_compatibility import ATOMIC_TYPE_TO_PYARROW
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import schema_from_element_type

from ...models.tasks import Task
from ..io.containers.location import ImageCell, locate
from ..io.uris import basename, check_uri, is_path
from .prompt_templates import fill, literal, named_columns
from .records import ANNOTATION_SCHEMA, FAILURE_SCHEMA, Annotation, Failure, ImageRef, annotation_schema

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
INTEGERS = (schema_pb2.BYTE, schema_pb2.INT16, schema_pb2.INT32, schema_pb2.INT64)
_PLAIN = (
    (pa.types.is_boolean, bool),
    (lambda kind: pa.types.is_integer(kind) and kind != pa.uint64(), int),
    (pa.types.is_floating, float),
    (lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind), str),
    (pa.types.is_binary, bytes),
    # As text: of Beam's writers of files, some know no moments.
    (lambda kind: kind == ANNOTATION_SCHEMA.field("created_at").type, str),
)


class Asked(NamedTuple):
    """What is asked of the pictures of rows: ``tasks`` may name fields in braces, those of ``columns`` are kept."""

    tasks: tuple[Task, ...]
    columns: tuple[pa.Field, ...] = ()

    @property
    def named(self) -> list[str]:
        """The fields that prompts name."""
        return named_columns(self.tasks)

    def job_tasks(self) -> tuple[Task, ...]:
        """What the job asks: where no field is named, a doubled brace means one."""
        return self.tasks if self.named else tuple(map(literal, self.tasks))


def asked_of(rows: PCollection[Any], tasks: Sequence[Task], keep: Sequence[str]) -> Asked:
    """What is asked of these rows, once they were seen to have all fields for it.

    Raises:
        ValueError: their elements have no named fields, lack one, or one to ``keep`` is neither text, number, boolean
            nor bytes.
    """
    try:
        element_type: Any = rows.element_type
        fields = {field.name: field.type for field in schema_from_element_type(element_type).fields}
    except (TypeError, ValueError) as error:
        raise ValueError(
            "these are no rows with named fields: give those of ReadImages, or of a MapToFields"
        ) from error
    asked = Asked(tuple(tasks))
    for name in (URI, *asked.named, *keep):
        if name not in fields:
            raise ValueError(f"the rows have no field {name!r}; they have {', '.join(fields)}")
    for name in (URI, FILENAME, PROBLEM):
        if name in fields and fields[name].atomic_type != schema_pb2.STRING:
            raise ValueError(f"field {name} must be text")
    for name in PLACE:
        if name in fields and fields[name].atomic_type not in INTEGERS:
            raise ValueError(f"field {name} must be a whole number")
    kept = asked._replace(columns=tuple(_arrow_field(name, fields[name]) for name in keep))
    annotation_schema(kept.columns)
    return kept


class RowsToRefs(beam.PTransform[PCollection[Any], PCollection[ImageRef]]):
    """References from rows with a field ``uri``, and maybe ``filename`` and ``problem``.

    A relative path is relative to the folder where the pipeline is built. A row that names no picture becomes a
    reference that fails at stage ``list``.
    """

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.asked, self.base = asked, os.getcwd()

    def expand(self, rows: PCollection[Any]) -> PCollection[ImageRef]:
        """Row by row."""
        return rows | "As references" >> beam.Map(to_ref, self.asked, self.base)


class RefsToRows(beam.PTransform[PCollection[ImageRef], PCollection[Any]]):
    """Rows with the fields ``uri``, ``filename`` and ``problem`` (null where there is none), and those of ``columns``.

    Raises:
        ValueError: a column is of no type that rows have, or its name can't be a field's.
    """

    def __init__(self, columns: Sequence[pa.Field] = ()) -> None:
        super().__init__()
        self.schema = pa.schema([*REF_SCHEMA, *(column.with_nullable(True) for column in columns)])
        self.row_type = row_type(self.schema)

    def expand(self, refs: PCollection[ImageRef]) -> PCollection[Any]:
        """Reference by reference."""
        return refs | "As rows" >> beam.Map(_ref_row, self.schema.names).with_output_types(self.row_type)


class AnnotationsToRows(beam.PTransform[PCollection[Annotation], PCollection[Any]]):
    """Rows with the fields of ``data/``, and the kept ``columns`` behind them; ``created_at`` is text."""

    def __init__(self, columns: Sequence[pa.Field] = ()) -> None:
        super().__init__()
        self.schema = annotation_schema([column.with_nullable(True) for column in columns])

    def expand(self, annotations: PCollection[Annotation]) -> PCollection[Any]:
        """Annotation by annotation."""
        to_row = beam.Map(_annotation_row, self.schema.names).with_output_types(row_type(self.schema))
        return annotations | "As rows" >> to_row


class FailuresToRows(beam.PTransform[PCollection[Failure], PCollection[Any]]):
    """Rows with the fields of ``errors/``; ``created_at`` is text."""

    def expand(self, failures: PCollection[Failure]) -> PCollection[Any]:
        """Failure by failure."""
        to_row = beam.Map(lambda failure: _row(FAILURE_SCHEMA.names, failure))
        return failures | "As rows" >> to_row.with_output_types(row_type(FAILURE_SCHEMA))


def row_type(schema: pa.Schema) -> RowTypeConstraint:
    """The type of Beam's rows with these columns.

    Raises:
        ValueError: one is of no type that rows have, or its name can't be a field's.
    """
    for field in schema:
        if not field.name.isidentifier() or field.name.startswith("_"):
            raise ValueError(
                f"column {field.name!r} can't be a field: its name must be a word of letters, digits and _"
            )
        if schema.names.count(field.name) > 1:
            raise ValueError(f"column {field.name}: rows have a field of this name already, rename it")
    return RowTypeConstraint.from_fields([(field.name, _field_type(field)) for field in schema])


def to_ref(row: Any, asked: Asked, base: str) -> ImageRef:
    """The reference that a row means."""
    named, kept = asked.named, [column.name for column in asked.columns]
    values = {name: getattr(row, name, None) for name in (URI, FILENAME, PROBLEM, *named, *kept)}
    uri, problem, inside = values[URI] or "", values[PROBLEM] or "", None
    if not uri:
        # Rows without a picture are told apart by what else they hold.
        uri = f"row:{hashlib.sha256(repr(values).encode('utf-8', 'backslashreplace')).hexdigest()[:20]}"
        problem = problem or "field uri is empty"
    filename = values[FILENAME] or ""
    tasks: tuple[Task, ...] = ()
    try:
        if not problem:
            check_uri(uri)
            uri = os.path.join(base, uri) if is_path(uri) else uri
            inside = locate(uri, *(getattr(row, name, None) for name in PLACE))
        filename = filename or basename(uri)
        if named or kept:
            tasks = asked.tasks if problem else tuple(dict.fromkeys(fill(task, values) for task in asked.tasks))
    except ValueError as error:
        problem, tasks = problem or str(error), asked.tasks if named or kept else ()
    columns = (tuple(values[name] for name in kept),) * len(tasks) if kept else ()
    return ImageRef(uri, filename, tasks, columns, problem, inside)


def _ref_row(ref: ImageRef, names: Sequence[str]) -> Any:
    problem = ref.problem
    if _text(ref.uri) != ref.uri:
        problem = problem or "its name is no UTF-8, which rows can't hold: rename it, or use the command"
    group = ref.inside.row_group if isinstance(ref.inside, ImageCell) else None
    kept = ref.columns[0] if ref.columns else (None,) * (len(names) - len(REF_SCHEMA))
    return _row(names, (ref.uri, ref.filename, problem or None, *ref.byte_range, group, *kept))


def _annotation_row(row: Annotation, names: Sequence[str]) -> Any:
    kept = row.columns or (None,) * (len(names) - len(ANNOTATION_SCHEMA))
    return _row(names, (*row[:-1], *kept))


def _row(names: Sequence[str], values: Sequence[Any]) -> Any:
    return Row(**dict(zip(names, map(_text, values), strict=True)))


def _text(value: Any) -> Any:
    """A value as rows hold it: odd bytes in names of files as escapes, as in Parquet, and a moment as text."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode()
    return value.isoformat(timespec="milliseconds") if isinstance(value, datetime) else value


def _field_type(field: pa.Field) -> Any:
    kind: Any = next((plain for fits, plain in _PLAIN if fits(field.type)), None)
    if kind is None and pa.types.is_list(field.type):
        kind = Sequence[_field_type(field.type.value_field.with_nullable(False))]  # type: ignore[misc]
    elif kind is None and pa.types.is_struct(field.type):
        kind = RowTypeConstraint.from_fields([(part.name, _field_type(part)) for part in field.type])
    elif kind is None:
        raise ValueError(f"column {field.name} is {field.type}: fields are text, numbers, booleans or bytes")
    # Beam knows no X | None.
    return Optional[kind] if field.nullable else kind  # noqa: UP045


def _arrow_field(name: str, kind: schema_pb2.FieldType) -> pa.Field:
    if kind.WhichOneof("type_info") != "atomic_type":
        raise ValueError(f"field {name} can't be kept: it is neither text, number, boolean nor bytes")
    return pa.field(name, ATOMIC_TYPE_TO_PYARROW[kind.atomic_type])
