"""Rows of a DataFrame as references to pictures: paths as Spark writes them, tasks, kept columns and bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from inspect import signature
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from ...models.tasks import Task
from ...transforms.core.beam_schema import PLACE, PROBLEM, URI, TaskSpec, to_ref
from ...transforms.core.kept.names import name_columns
from ...transforms.core.records import ImageRef
from ...transforms.core.row_schema import ANNOTATION_SCHEMA, FAILURE_SCHEMA

# The column of Spark's file sources whose paths are percent-encoded. Those of ``binaryFile``'s ``path`` are not.
ESCAPED_COLUMN = "_metadata.file_path"
# Names of the selected columns that hold the path and the bytes. No column of a user has such a name.
PATH, CONTENT = "moondream_beam path", "moondream_beam content"
_AZURE = re.compile(r"(?:abfss?|wasbs?)://([^@/]+)@([^./]+)\.[^/]+/(.*)", re.DOTALL)
_NO_CONTENT = "column {} is empty: fill it in with the bytes of a picture"
_NO_PATH = "column {} is empty: fill it in with the path or the URL of a picture"


class Content(str):
    """The URI of a picture whose bytes are here already. ``take`` returns the bytes once, and drops them."""

    content: bytes | None = None

    @classmethod
    def of(cls, uri: str, content: bytes) -> Content:
        """Return the URI with the bytes."""
        named = cls(uri)
        named.content = content
        return named

    def take(self) -> bytes:
        """Return the bytes.

        Raises:
            ValueError: if there are none.
        """
        content, self.content = self.content, None
        if not content:
            raise ValueError("the content is empty: replace it by the bytes of a picture")
        return content


class Source(NamedTuple):
    """The columns of a DataFrame that a job uses.

    Attributes:
        tasks: what to ask of each picture. A prompt may name columns in braces.
        path: the column with the path or the URL; None: the bytes name the picture.
        content: the column with the bytes; None: the picture is read from its path.
        keep: the columns that rows keep, by source and name.
        folder: what relative paths are relative to.
    """

    tasks: tuple[Task, ...]
    path: str | None
    content: str | None
    keep: tuple[tuple[str, str], ...] = ()
    folder: str = ""

    @property
    def spec(self) -> TaskSpec:
        """The tasks and the kept columns, without their types."""
        fields = tuple(pa.field(name, pa.null()) for _, name in self.keep)
        return TaskSpec(self.tasks, fields, tuple(source for source, _ in self.keep))

    @property
    def own_columns(self) -> list[str]:
        """The columns that prompts name or rows keep, each once."""
        return list(dict.fromkeys([*self.spec.named_fields, *(source for source, _ in self.keep)]))


def build_source(df: Any, tasks: Sequence[Task], path: str | None, content: str | None, keep: Sequence[str]) -> Source:
    """Return the columns of a DataFrame to use, after a check that they exist.

    Args:
        keep: for each column to keep ``SOURCE`` or ``SOURCE=NAME``, as for ``--keep-columns``.

    Raises:
        ValueError: if there is neither path nor content, a column does not exist, or a name is taken.
    """
    if path is None and content is None:
        raise ValueError("no column with pictures: give path_column, content_column or both")
    taken = [*ANNOTATION_SCHEMA.names, *FAILURE_SCHEMA.names]
    names = tuple((name.source, name.name) for name in name_columns(keep, taken))
    source = Source(tuple(tasks), path, content, names, os.getcwd())
    reserved = {URI, PROBLEM, *PLACE}
    for column in source.own_columns:
        if column not in df.columns:
            raise ValueError(f"the DataFrame has no column {column!r}; it has {', '.join(df.columns)}")
        if column in reserved:
            raise ValueError(f"column {column} can't be kept or be part of a prompt: rename it in the DataFrame")
    return source


def select(df: Any, source: Source) -> Any:
    """Return a DataFrame with the columns of a source only, those with path and bytes as ``PATH`` and ``CONTENT``.

    Raises:
        ValueError: if the column with the path or the bytes does not exist, or has another type.
    """
    from pyspark.errors import AnalysisException
    from pyspark.sql.functions import col

    columns = [_column(name) for name in source.own_columns]
    for name, alias in ((source.path, PATH), (source.content, CONTENT)):
        if name is not None:
            columns.append((_column(name) if name in df.columns else col(name)).alias(alias))
    try:
        selected = df.select(*columns)
        types = dict(selected.dtypes)
    except AnalysisException as error:
        wanted = " or ".join(filter(None, (source.path, source.content)))
        raise ValueError(f"the DataFrame has no column {wanted}; it has {', '.join(df.columns)}") from error
    for name, alias, type in ((source.path, PATH, "string"), (source.content, CONTENT, "binary")):
        if name is not None and types[alias] != type:
            raise ValueError(f"column {name} is {types[alias]}: give a column of type {type}")
    return selected


def refs_of(batch: pa.RecordBatch, source: Source) -> Iterator[tuple[ImageRef, tuple[Any, ...]]]:
    """Yield for each row of a batch from ``select`` its reference and the values of its kept columns.

    A row without a usable path or without bytes becomes a reference with a ``problem``.
    """
    escaped, spec = source.path == ESCAPED_COLUMN, source.spec
    for values in _rows(batch):
        path, content = values.pop(PATH, None), values.pop(CONTENT, None)
        row = SimpleNamespace(**values)
        row.uri = path and uri_of(path, escaped=escaped)
        row.problem = None
        if source.content and not content:
            row.problem = _NO_CONTENT.format(source.content)
        elif source.path and not path:
            row.problem = _NO_PATH.format(source.path)
        if source.path is None and content:
            # Rows show a ``data:`` URI by a digest of its content.
            row.uri = f"data:,{sha256(content).hexdigest()}"
        ref = to_ref(row, spec, source.folder)
        if source.content and content and not ref.problem:
            ref = ref._replace(uri=Content.of(ref.uri, content), inside=None)
        yield ref, tuple(values[name] for name, _ in source.keep)


def arrow_types(df: Any) -> dict[str, pa.DataType]:
    """Return the Arrow type of each column of a DataFrame."""
    from pyspark.sql.pandas.types import to_arrow_type

    # Spark 4 needs a time zone for timestamps, and Spark 3.5 knows no such argument.
    more: dict[str, Any] = {"timezone": "UTC"} if "timezone" in signature(to_arrow_type).parameters else {}
    return {field.name: to_arrow_type(field.dataType, **more) for field in df.schema}


def uri_of(path: str, *, escaped: bool = False) -> str:
    """Return the URI of a picture as this package writes it, from a path of Spark's.

    So one picture has one id, however a DataFrame names it. ``file:/PATH`` is the path as it stands, and
    ``file:///PATH`` is percent-encoded. ``s3a://`` becomes ``s3://``, ``abfss://CONTAINER@ACCOUNT.HOST/NAME`` becomes
    ``azfs://ACCOUNT/CONTAINER/NAME``, and ``dbfs:/NAME`` becomes the path ``/dbfs/NAME``. All else stays as it is.

    Args:
        escaped: the path is percent-encoded, as in ``_metadata.file_path``.
    """
    if path.startswith("file://"):
        return path
    if escaped and not path.startswith(("http://", "https://")):
        path = unquote(path, errors="surrogateescape")
    if path.startswith("file:/"):
        return path[len("file:") :]
    if azure := _AZURE.fullmatch(path):
        container, account, name = azure.groups()
        return f"azfs://{account}/{container}/{name}"
    if path.startswith(("s3a://", "s3n://")):
        return f"s3{path[3:]}"
    if path.startswith("dbfs:/"):
        name = path[len("dbfs:") :].replace("//", "/", 1)
        return name if name.startswith("/Volumes/") else f"/dbfs{name}"
    return path


def _column(name: str) -> Any:
    from pyspark.sql.functions import col

    return col("`{}`".format(name.replace("`", "``")))


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    # The bytes of one picture only are in memory twice.
    names = batch.schema.names
    columns = [
        _values(column) if name == CONTENT else column.to_pylist()
        for name, column in zip(names, batch.columns, strict=True)
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _values(column: pa.Array) -> Iterator[Any]:
    return (value.as_py() for value in column)
