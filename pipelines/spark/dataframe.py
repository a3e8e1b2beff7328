"""``annotate``: a lazy DataFrame of answers and failures for the pictures of another DataFrame."""

from __future__ import annotations

import contextlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from ...models.tasks import DEFAULT_SAMPLING, Annotator, Sampling, Task
from ...transforms.annotation.annotate import annotate_for, check_tasks
from ...transforms.core.records import (
    IGNORE_PROFILES,
    Annotation,
    ColourProfiles,
    Failure,
    ImageRef,
    Job,
    Location,
    Row,
    check_colour_profiles,
)
from ...transforms.core.row_schema import ANNOTATION_SCHEMA, CREATED_AT, FAILURE_SCHEMA, to_table
from ...transforms.images.fetch import Fetcher
from ...transforms.output.layout import DATA, ERRORS
from .cluster import check_gpus, context_of, device_of
from .rows import Content, Source, build_source, refs_of, select
from .worker import annotator_digest, frozen_afterwards, loaded_annotator, loaded_fetcher, use_assigned_gpu

KIND = "kind"
SPARK_TIME = pa.timestamp("us", tz="UTC")
# Rows of one batch on their way to Spark. A reader that stops early, such as ``limit``, has asked for a batch more.
BATCH_ROWS = 64
# A batch of Spark's has so many pictures at most if they come as bytes. A batch is in memory as a whole.
MAX_CONTENTS = 256
BATCH_SIZE = "spark.sql.execution.arrow.maxRecordsPerBatch"


def _row_schema() -> pa.Schema:
    """Return the columns of all rows: ``kind``, then those of answers and of failures, which may be null."""
    both = {field.name: field for schema in (FAILURE_SCHEMA, ANNOTATION_SCHEMA) for field in schema}
    names = dict.fromkeys([*ANNOTATION_SCHEMA.names, *FAILURE_SCHEMA.names])
    fields = [both[name].with_nullable(True) for name in names]
    # Spark reads no other unit of time.
    fields = [field.with_type(SPARK_TIME) if field.type == CREATED_AT else field for field in fields]
    return pa.schema([pa.field(KIND, pa.string(), nullable=False), *fields])


ROW_SCHEMA = _row_schema()
_ROW_TYPES = [(field.name, field.type) for field in ROW_SCHEMA]


def annotate(
    df: Any,
    tasks: Sequence[Task],
    annotator: Annotator,
    *,
    path_column: str | None = None,
    content_column: str | None = None,
    keep_columns: Sequence[str] = (),
    sampling: Sampling = DEFAULT_SAMPLING,
    allow_private_addresses: bool = False,
    colour_profiles: ColourProfiles = IGNORE_PROFILES,
) -> Any:
    """Return a lazy DataFrame with one row for each task on each picture of ``df``, in any order.

    The column ``kind`` is "data" for an answer and "errors" for a failure. The other columns are those of ``data/`` and
    of ``errors/``, null where a kind lacks one, and the kept columns. Nothing is journaled: each action on the result
    asks the model again, so write or cache it.

    Args:
        path_column: the column with the path or the URL of the picture. Workers read it, unless there is a
            ``content_column``.
        content_column: the column with the bytes of the picture, such as ``content`` of ``binaryFile``.
        keep_columns: columns of ``df`` to copy to the rows; SOURCE=NAME renames one.

    Raises:
        ValueError: if an argument has a bad value, a column does not exist, or Spark's batches would hold too many
            pictures at once.
    """
    check_tasks(tasks, annotator)
    source = build_source(df, tasks, path_column, content_column, keep_columns)
    selected = select(df, source)
    if content_column is not None:
        _check_batch_size(df.sparkSession)
    profiles = check_colour_profiles(colour_profiles)
    job = Job(source.spec.job_tasks(), annotator, sampling, colour_profiles=profiles)
    needs_gpu = _needs_gpu(df.sparkSession, annotator)
    asking = Asking(job, source, annotator_digest(annotator), Fetcher(allow_private_addresses), needs_gpu)
    return selected.mapInArrow(asking, _spark_schema(selected, source))


@dataclass(frozen=True)
class Asking:
    """A function for ``mapInArrow``: batches from ``select`` become batches of rows."""

    job: Job
    source: Source
    digest: str
    fetch: Fetcher
    needs_gpu: bool

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of all pictures. Closing the generator ends the work of the annotator."""
        use_assigned_gpu(self.needs_gpu)
        job = self.job._replace(annotator=loaded_annotator(self.job.annotator, self.digest))
        kept = _Kept(self.source)
        fetch = loaded_fetcher(self.fetch)
        rows = annotate_for(job, self._refs(batches, kept), partial(_read, fetch))
        with frozen_afterwards(), contextlib.closing(rows):
            while some := list(islice(rows, BATCH_ROWS)):
                yield _batch(some, kept)

    def _refs(self, batches: Iterable[pa.RecordBatch], kept: _Kept) -> Iterator[ImageRef]:
        for batch in batches:
            kept.types = [batch.schema.field(of).type for of, _ in self.source.keep]
            for ref, values in refs_of(batch, self.source):
                if values:
                    for row in ref.rows(self.job.tasks):
                        kept.put(self.job.row_id(ref, row), values)
                yield ref


def _read(fetch: Fetcher, location: Location) -> bytes:
    return location.take() if isinstance(location, Content) else fetch(location)


class _Kept:
    """The kept values of rows that have no answer yet. ``types`` are the Arrow types of the kept columns.

    Rows of the same id are alike, so any of them gets any of the values.
    """

    def __init__(self, source: Source) -> None:
        self.names = [name for _, name in source.keep]
        self.types: list[pa.DataType] = []
        self._values: dict[str, deque[tuple[Any, ...]]] = defaultdict(deque)

    def put(self, id: str, values: tuple[Any, ...]) -> None:
        self._values[id].append(values)

    def take(self, id: str) -> tuple[Any, ...]:
        """Remove and return the values of a row with this id; () if no column is kept."""
        if not self.names:
            return ()
        values = self._values[id].popleft()
        if not self._values[id]:
            del self._values[id]
        return values


def _batch(rows: Sequence[Row], kept: _Kept) -> pa.RecordBatch:
    """Return rows as one batch: the answers, then the failures."""
    if kept.names:
        rows = [row._replace(columns=()) for row in rows]
    answers = [row for row in rows if isinstance(row, Annotation)]
    failures = [row for row in rows if isinstance(row, Failure)]
    kinds = (DATA, answers, ANNOTATION_SCHEMA), (ERRORS, failures, FAILURE_SCHEMA)
    batches = [_as_rows(kind, to_table(some, schema)) for kind, some, schema in kinds if some]
    whole = batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
    if not kept.names:
        return whole
    values = [*(kept.take(row.id) for row in answers), *(kept.take(row.id) for row in failures)]
    columns = [pa.array(column, type) for column, type in zip(zip(*values, strict=True), kept.types, strict=True)]
    return pa.RecordBatch.from_arrays([*whole.columns, *columns], [*ROW_SCHEMA.names, *kept.names])


def _as_rows(kind: str, table: pa.Table) -> pa.RecordBatch:
    """Return a batch with the columns of ``ROW_SCHEMA``. Those that ``table`` lacks are null."""
    (batch,) = table.to_batches()
    given = dict(zip(batch.schema.names, batch.columns, strict=True))
    given[KIND] = pa.array([kind] * batch.num_rows, pa.string())
    columns = []
    for name, type in _ROW_TYPES:
        column = given.get(name)
        if column is None:
            column = pa.nulls(batch.num_rows, type)
        columns.append(column if column.type == type else column.cast(type))
    return pa.RecordBatch.from_arrays(columns, schema=ROW_SCHEMA)


def _spark_schema(selected: Any, source: Source) -> Any:
    """Return the schema of the rows for Spark, with the kept columns as they are in ``selected``."""
    from pyspark.sql.pandas.types import from_arrow_schema
    from pyspark.sql.types import StructField, StructType

    kept = [StructField(name, selected.schema[of].dataType, True) for of, name in source.keep]
    return StructType([*from_arrow_schema(ROW_SCHEMA).fields, *kept])


def _needs_gpu(session: Any, annotator: Annotator) -> bool:
    """Return whether a task without a GPU from Spark must fail. Check the configuration, as ``check_gpus`` does."""
    try:
        context = context_of(session)
    except ValueError:
        # Spark Connect has no context whose configuration could be checked.
        return device_of(annotator).startswith("cuda")
    return check_gpus(context, annotator)


def _check_batch_size(session: Any) -> None:
    """Raise ValueError if a batch of Spark's may hold more than ``MAX_CONTENTS`` pictures."""
    size = int(session.conf.get(BATCH_SIZE, "10000"))
    if not 0 < size <= MAX_CONTENTS:
        raise ValueError(
            f"{BATCH_SIZE} is {size}, so that a batch of Spark's may hold {size} pictures in memory: set it to"
            f" {MAX_CONTENTS} or less, such as spark.conf.set({BATCH_SIZE!r}, 64)"
        )
