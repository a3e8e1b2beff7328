"""References to pictures, the rows of an output with their Arrow schemas, and the job that makes rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

import pyarrow as pa

from ...models.billing import Billing
from ...models.tasks import DEFAULT_SAMPLING, Annotator, Box, Sampling, Spot, Task, task_digest
from ..io.containers.location import ImageCell, Member
from ..io.uris import display_uri, escape_non_utf8

Stage = Literal["list", "fetch", "decode", "answer"]

# How the ICC profile in an image file is used: not at all, or to convert the pixels to sRGB.
ColourProfiles = Literal["ignore", "srgb"]
IGNORE_PROFILES: ColourProfiles = "ignore"

KEY_DIGITS = 20
MILLISECONDS = pa.float32()
# What a fetcher takes: a URI, or a place inside an archive or a Parquet file.
Location = str | Member | ImageCell


# The kind of folders without which the input is not complete begins like this. In brackets follows the reason.
UNLISTED = "folders that could not be listed"


class Skipped(NamedTuple):
    """Parts of the input that are left out: ``count`` things of a ``kind``, such as "files ending in .txt"."""

    kind: str
    count: int = 1  # type: ignore[assignment]  # In place of the method of tuples.


class ImageRef(NamedTuple):
    """A picture to annotate. ``filename`` is its name relative to the listed folder, archive or manifest.

    Attributes:
        tasks: its own tasks; if empty, it gets the tasks of the job.
        columns: for each of ``tasks``, the values of the manifest's columns that its row keeps; empty if none are kept.
        problem: why the picture can't be read, if the input already showed that. Each task becomes a failure then.
        skipped: None for a picture. Otherwise ``uri`` and ``filename`` are an example of parts of the input that are
            left out. Such a reference has no task and no row; the plan of the run counts it.
    """

    uri: str
    filename: str
    tasks: tuple[Task, ...] = ()
    columns: tuple[tuple[Any, ...], ...] = ()
    problem: str = ""
    # The place of an image inside an archive or a Parquet file, which ``uri`` names.
    inside: Member | ImageCell | None = None
    skipped: Skipped | None = None

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
        """The picture's id, the same in every run: the first 20 hex digits of the sha256 of its displayed URI."""
        return hashlib.sha256(display_uri(self.uri).encode("utf-8", "surrogateescape")).hexdigest()[:KEY_DIGITS]

    def columns_of(self, task: Task) -> tuple[Any, ...]:
        """Return the manifest's values that the row of one of ``tasks`` keeps; () if there are none."""
        return self.columns[self.tasks.index(task)] if self.columns else ()

    def with_tasks(self, tasks: tuple[Task, ...]) -> ImageRef:
        """Return this reference with only some of its tasks, and their columns."""
        return self._replace(tasks=tasks, columns=tuple(map(self.columns_of, tasks)) if self.columns else ())


def as_picture(ref: ImageRef) -> ImageRef | None:
    """Return a reference that makes rows, for steps without a plan, which would count what is skipped.

    A folder that could not be listed has a ``problem`` then, so that it becomes a failure.

    Returns:
        None for all else that is skipped.
    """
    if ref.skipped is None:
        return ref
    if not ref.skipped.kind.startswith(UNLISTED):
        return None
    return ref._replace(skipped=None, problem=f"{ref.filename}: {ref.skipped.kind}: make it readable, and run again")


class RowTimings(NamedTuple):
    """The milliseconds that a row took.

    Time spent on several rows at once (a fetch, a decoding, a forward pass) is split equally among them, so that sums
    over rows are right. ``wait_ms`` (in the queue) and ``total_ms`` are not split: they are wall-clock times.
    """

    fetch_ms: float = 0.0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0
    total_ms: float = 0.0


class Annotation(NamedTuple):
    """A row of ``data/``: the answer to one task on one picture."""

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
    # Where the bytes of a member of a tar archive lie in the decompressed archive; None for all other pictures.
    byte_offset: int | None = None
    byte_size: int | None = None
    # The values of the manifest's columns that the row keeps, in the order of the schema's last columns.
    columns: tuple[Any, ...] = ()


class Failure(NamedTuple):
    """A row of ``errors/``: why one task on one picture has no answer."""

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
    """Return the schema of ``data/`` with ``columns`` of a manifest at its end.

    Raises:
        ValueError: if two columns have the same name.
    """
    names = [*ANNOTATION_SCHEMA.names, *(column.name for column in columns)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"column {name} can't be kept: a column of this name exists; rename it in the manifest")
    return pa.schema([*ANNOTATION_SCHEMA, *columns])


class Job(NamedTuple):
    """What a run does with each picture: the tasks, unless the picture has its own, and the annotator.

    ``columns`` are the columns of a manifest that rows keep. ``colour_profiles`` is part of the ids of rows, because
    the answers depend on the pixels; ids with "ignore" are those of versions without this choice.
    """

    tasks: tuple[Task, ...]
    annotator: Annotator
    sampling: Sampling = DEFAULT_SAMPLING
    run: str = ""
    columns: tuple[pa.Field, ...] = ()
    colour_profiles: ColourProfiles = IGNORE_PROFILES

    def tasks_of(self, ref: ImageRef) -> tuple[Task, ...]:
        """Return the picture's own tasks, or those of the job if it has none."""
        return ref.tasks or self.tasks

    def id_of(self, ref: ImageRef, task: Task) -> str:
        """Return the ``id`` of a row, 64 hex digits: a sha256 of the displayed URI and all that decides the answer."""
        return self._digest(display_uri(ref.uri), task)

    def request_id(self, sha256: str, task: Task) -> str:
        """Return the id, in the form of ``id_of``, of a task on a picture with this sha256 of its bytes, at any URI.

        It seeds the sampling, and requests with the same id are answered once.
        """
        return self._digest(f"sha256:{sha256}", task)

    def _digest(self, picture: str, task: Task) -> str:
        digest = hashlib.sha256()
        parts = [picture, task_digest(task), repr(self.sampling), self.annotator.name, self.annotator.revision]
        if self.colour_profiles != IGNORE_PROFILES:
            parts.append(f"colour_profiles:{self.colour_profiles}")
        for part in parts:
            digest.update(part.encode("utf-8", "surrogateescape"))
            digest.update(b"\0")
        return digest.hexdigest()


def check_colour_profiles(choice: str) -> ColourProfiles:
    """Return the choice.

    Raises:
        ValueError: if it is not one of ``ColourProfiles``.
    """
    for known in get_args(ColourProfiles):
        if choice == known:
            return known
    raise ValueError(f"colour profiles {choice!r}: give {' or '.join(get_args(ColourProfiles))}")


def to_table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    """Return rows, all Annotations or all Failures, as an Arrow table with this schema."""
    if schema.names[: len(ANNOTATION_SCHEMA)] == ANNOTATION_SCHEMA.names:
        no_columns = (None,) * (len(schema) - len(ANNOTATION_SCHEMA))
        rows = [(*row[:-1], *(row.columns or no_columns)) for row in rows]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in schema]
    arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(column, kind)
    except UnicodeEncodeError:
        return pa.array([text if text is None else escape_non_utf8(text) for text in column])
