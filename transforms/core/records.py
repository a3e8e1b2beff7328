"""The rows that flow and the Arrow schemas that they are written with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from ...models.billing import Billing
from ...models.tasks import DEFAULT_SAMPLING, Annotator, Box, Sampling, Spot, Task, task_digest
from ..io.containers.location import ImageCell, Member
from ..io.uris import as_written, shown

Stage = Literal["list", "fetch", "decode", "answer"]

KEY_DIGITS = 20
MILLISECONDS = pa.float32()
# What a fetcher takes: a URI, or a place inside an archive or a Parquet file.
Location = str | Member | ImageCell


class ImageRef(NamedTuple):
    """Where a picture lies, its name relative to the input's root, and what to ask of it.

    Without ``tasks`` of its own it is asked those of the job. ``columns`` are what a manifest says beside each of its
    tasks and is kept. A ``problem`` is why there is no picture to look for: all that was asked has failed.
    """

    uri: str
    filename: str
    tasks: tuple[Task, ...] = ()
    columns: tuple[tuple[Any, ...], ...] = ()
    problem: str = ""
    # The place of an image inside an archive or a Parquet file, which ``uri`` names.
    inside: Member | ImageCell | None = None

    @property
    def location(self) -> Location:
        """What a fetcher is asked for."""
        return self.uri if self.inside is None else self.inside

    @property
    def byte_range(self) -> tuple[int | None, int | None]:
        """The columns ``byte_offset`` and ``byte_size``: those of a member of an archive, else None."""
        return (self.inside.offset, self.inside.size) if isinstance(self.inside, Member) else (None, None)

    @property
    def key(self) -> str:
        """A short name for the picture, the same in every run, without dots."""
        return hashlib.sha256(shown(self.uri).encode("utf-8", "surrogateescape")).hexdigest()[:KEY_DIGITS]

    def columns_of(self, task: Task) -> tuple[Any, ...]:
        """What is kept beside one of its tasks."""
        return self.columns[self.tasks.index(task)] if self.columns else ()

    def asking(self, tasks: tuple[Task, ...]) -> ImageRef:
        """The same picture, asked some of its tasks only."""
        return self._replace(tasks=tasks, columns=tuple(map(self.columns_of, tasks)) if self.columns else ())


class RowTimings(NamedTuple):
    """Milliseconds. What a row shared with others (a fetch, a decoding, a pass of the model) it bears an equal part
    of, so that sums over rows are real; ``wait_ms`` (for a turn) and ``total_ms`` are times on the clock.
    """

    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    total_ms: float = 0.0


class Annotation(NamedTuple):
    """A row of ``data/``: one task on one picture, answered."""

    id: str
    key: str
    filename: str
    uri: str
    sha256: str
    width: int
    height: int
    task: str
    prompt: str
    caption: str | None
    objects: tuple[Box, ...] | None
    points: tuple[Spot, ...] | None
    finish_reason: str
    input_tokens: int
    output_tokens: int
    timings: RowTimings
    backend: str
    model: str
    revision: str
    run: str
    created_at: datetime
    hosted: Billing | None = None
    # Of a member of a tar archive: the place of its bytes in the (decompressed) archive.
    byte_offset: int | None = None
    byte_size: int | None = None
    # Last, and as many as the schema has more of: what a manifest said, and was to be kept.
    columns: tuple[Any, ...] = ()


class Failure(NamedTuple):
    """A row of ``errors/``: one task on one picture that has no answer, and why."""

    id: str
    key: str
    filename: str
    uri: str
    task: str
    prompt: str
    stage: Stage
    error: str
    message: str
    retryable: bool
    attempts: int
    backend: str
    run: str
    created_at: datetime
    hosted: Billing | None = None
    byte_offset: int | None = None
    byte_size: int | None = None


Row = Annotation | Failure


def _struct(names: tuple[str, ...], kind: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(name, kind, nullable=False) for name in names])


def _required(**fields: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in fields.items()]


HOSTED = pa.field(
    "hosted",
    pa.struct(
        [
            *_required(job=pa.string(), units=pa.float64()),
            pa.field("usd", pa.float64()),
            *_required(estimated=pa.bool_()),
            pa.field("response", pa.string()),
        ]
    ),
)
BYTE_RANGE = (pa.field("byte_offset", pa.int64()), pa.field("byte_size", pa.int64()))
CREATED_AT = pa.timestamp("ms", tz="UTC")

ANNOTATION_SCHEMA = pa.schema(
    [
        *_required(id=pa.string(), key=pa.string(), filename=pa.string(), uri=pa.string(), sha256=pa.string()),
        *_required(width=pa.int32(), height=pa.int32(), task=pa.string(), prompt=pa.string()),
        pa.field("caption", pa.string()),
        pa.field("objects", pa.list_(_struct(Box._fields, pa.float32()))),
        pa.field("points", pa.list_(_struct(Spot._fields, pa.float32()))),
        *_required(finish_reason=pa.string(), input_tokens=pa.int32(), output_tokens=pa.int32()),
        *_required(timings=_struct(RowTimings._fields, MILLISECONDS)),
        *_required(backend=pa.string(), model=pa.string(), revision=pa.string(), run=pa.string()),
        *_required(created_at=CREATED_AT),
        HOSTED,
        *BYTE_RANGE,
    ]
)

FAILURE_SCHEMA = pa.schema(
    [
        *_required(id=pa.string(), key=pa.string(), filename=pa.string(), uri=pa.string()),
        *_required(task=pa.string(), prompt=pa.string(), stage=pa.string(), error=pa.string(), message=pa.string()),
        *_required(retryable=pa.bool_(), attempts=pa.int32(), backend=pa.string(), run=pa.string()),
        *_required(created_at=CREATED_AT),
        HOSTED,
        *BYTE_RANGE,
    ]
)


def annotation_schema(columns: Sequence[pa.Field]) -> pa.Schema:
    """The schema of ``data/`` with these columns of a manifest at its end.

    Raises:
        ValueError: two have the same name.
    """
    names = [*ANNOTATION_SCHEMA.names, *(column.name for column in columns)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"column {name} can't be kept: there is one of this name, rename it in the manifest")
    return pa.schema([*ANNOTATION_SCHEMA, *columns])


class Job(NamedTuple):
    """What a run asks of each picture that has no tasks of its own, and of whom; ``columns`` are kept on its rows."""

    tasks: tuple[Task, ...]
    annotator: Annotator
    sampling: Sampling = DEFAULT_SAMPLING
    run: str = ""
    columns: tuple[pa.Field, ...] = ()

    def tasks_of(self, ref: ImageRef) -> tuple[Task, ...]:
        """What is asked of this picture."""
        return ref.tasks or self.tasks

    def id_of(self, ref: ImageRef, task: Task) -> str:
        """The name of one task on one picture: sha256 over all that decides the answer, as 64 hex digits."""
        return self._digest(shown(ref.uri), task)

    def question_of(self, sha256: str, task: Task) -> str:
        """The name of one task on these bytes, wherever they lie: it seeds the draws, and is asked once."""
        return self._digest(f"sha256:{sha256}", task)

    def _digest(self, picture: str, task: Task) -> str:
        digest = hashlib.sha256()
        for part in (picture, task_digest(task), repr(self.sampling), self.annotator.name, self.annotator.revision):
            digest.update(part.encode("utf-8", "surrogateescape"))
            digest.update(b"\0")
        return digest.hexdigest()


def to_table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    """Rows of one kind as an Arrow table of that schema."""
    if schema.names[: len(ANNOTATION_SCHEMA)] == ANNOTATION_SCHEMA.names:
        nothing = (None,) * (len(schema) - len(ANNOTATION_SCHEMA))
        rows = [(*row[:-1], *(row.columns or nothing)) for row in rows]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in schema]
    arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(column, kind)
    except UnicodeEncodeError:
        return pa.array([text if text is None else as_written(text) for text in column])
