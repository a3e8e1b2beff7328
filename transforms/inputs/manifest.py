"""Manifests: lists of pictures with what to ask of each, and what to keep beside its rows."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection

from ...models.tasks import Task
from ..core.prompt_templates import fill, named_columns, value_of
from ..core.records import ImageRef
from ..io.containers.parquet_images import ListedImage, check_pictures, list_pictures
from ..io.files import open_file
from ..io.object_stores.base import Stores
from ..io.retry import RetryPolicy
from ..io.uris import BUCKETS, LOCAL, basename, check_uri, is_path, scheme_of
from .bucket_listing import GlobLister, PendingFolder
from .images import anchored
from .tables import KINDS, PARQUET, TableRow, convert, kind_of, read_rows, schema_of

R = TypeVar("R", TableRow, ListedImage)


@dataclass(frozen=True)
class Columns:
    """Which columns of a manifest say where a picture lies, what it is called, and what is kept beside its rows.

    In place of ``uri`` there may be ``image``, a column of Parquet that holds the pictures themselves.

    ``tasks`` may name columns in braces. Where one does, or something is ``kept``, each row has tasks of its own.

    Raises:
        ValueError: there is neither of the two, or there are both.
    """

    uri: str | None = None
    filename: str | None = None
    tasks: tuple[Task, ...] = ()
    kept: tuple[pa.Field, ...] = ()
    image: str | None = None

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.image is None):
            raise ValueError("a manifest has one column of pictures: say where they lie, or which holds them, not both")

    def names(self) -> list[str]:
        """All columns that are read, each once; the one that holds the pictures is not.

        Raises:
            ValueError: a prompt's braces make no sense.
        """
        plain = [name for name in (self.uri, self.filename) if name]
        return list(dict.fromkeys([*plain, *named_columns(self.tasks), *(one.name for one in self.kept)]))

    def own_tasks(self) -> bool:
        """Whether each row has tasks of its own."""
        return bool(self.kept or named_columns(self.tasks))


class ReadManifests(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """References to the pictures that manifests list, one for each row: files or globs of ``.csv``, ``.tsv``,
    ``.jsonl``, ``.ndjson`` and ``.parquet``, on disk or in a bucket.

    A relative path in a manifest is relative to the manifest's folder. Where Parquet holds the pictures themselves,
    their URI in rows is ``FILE#COLUMN/NUMBER``, with the path behind it that a row may have. A row that names no
    picture becomes one that fails at stage ``list``. A name is that name, whatever brackets it has.

    Raises:
        ValueError: a pattern can't be any.
    """

    def __init__(self, patterns: Sequence[str], columns: Columns) -> None:
        super().__init__()
        self.patterns, self.columns = [anchored(pattern) for pattern in patterns], columns

    def expand(self, pbegin: PBegin) -> PCollection[ImageRef]:
        """List the manifests, spread them over the workers, read them."""
        return (
            pbegin
            | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
            | "List" >> beam.FlatMap(lambda pattern: map(os.fsencode, list_manifests(os.fsdecode(pattern))))
            | "Each once" >> beam.Distinct()
            | "Read" >> beam.FlatMap(lambda path, columns: read_manifest(os.fsdecode(path), columns), self.columns)
        )


def list_manifests(pattern: str) -> Iterator[str]:
    """The manifests that an anchored pattern matches.

    Raises:
        ValueError: one of them is none by its name.
    """
    if scheme_of(pattern) in BUCKETS:
        bucket, found = GlobLister(Stores(), RetryPolicy(), frozenset(KINDS)), []
        for top in bucket.top(pattern):
            found += list(bucket.below(top)) if isinstance(top, PendingFolder) else [top]
        paths = [ref.uri for ref in found]
    elif scheme_of(pattern) != LOCAL:
        raise ValueError(f"manifest {pattern}: give a file or a bucket's path")
    else:
        paths = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
    for path in sorted(paths):
        kind_of(path)
        yield path


def read_manifest(path: str, columns: Columns) -> Iterator[ImageRef]:
    """A reference for each row."""
    if columns.image:
        yield from _read_pictures(path, columns, columns.image)
        return
    folder = posixpath.dirname(path)
    rows = read_rows(path, columns.names())
    yield from _references(path, rows, columns, lambda row: _place(row.values, columns, folder))


def _read_pictures(path: str, columns: Columns, image: str) -> Iterator[ImageRef]:
    """A reference for each row that holds its picture; where the file breaks off, one more, which fails."""
    try:
        with open_file(path) as file:
            rows = list_pictures(path, file, image, columns.names())
            yield from _references(path, rows, columns, lambda row: ImageRef(row.uri, row.name, inside=row.cell))
    except (OSError, ValueError, pa.ArrowException) as error:
        yield _problem(path, columns, str(error))


def _references(path: str, rows: Iterable[R], columns: Columns, place: Callable[[R], ImageRef]) -> Iterator[ImageRef]:
    for row in rows:
        try:
            if row.problem:
                raise ValueError(row.problem)
            yield _asked(place(row), row.values, columns)
        except ValueError as error:
            yield _problem(f"{path}#{row.number}", columns, str(error))


def check_columns(patterns: Sequence[str], columns: Columns, keep: Sequence[str]) -> Columns:
    """The columns, with the types of those to ``keep``, once each pattern's first manifest was seen to have them all.

    Raises:
        ValueError: a pattern matches nothing, or a column is not there, or can't hold what it should.
    """
    wanted = dict.fromkeys([*columns.names(), *keep])
    if columns.image in wanted:
        raise ValueError(f"column {columns.image!r} holds the pictures: it can't be kept, nor be a name or in a prompt")
    kept: tuple[pa.Field, ...] = ()
    for pattern in patterns:
        first = next(list_manifests(anchored(pattern)), None)
        if first is None:
            raise ValueError(f"manifest {pattern}: no such file")
        if columns.image and kind_of(first) not in PARQUET:
            raise ValueError(f"manifest {first} is no Parquet file, which alone can hold pictures in a column")
        schema = schema_of(first)
        if columns.image:
            check_pictures(first, schema, columns.image)
        for name in wanted:
            if name not in schema.names:
                there = ", ".join(schema.names[:20]) or "none"
                # Its name may be one that nobody gave.
                cure = ": name its URI column" if name == columns.uri else ""
                raise ValueError(f"manifest {first} has no column {name!r}; it has {there}{cure}")
        kept = kept or tuple(_plain(schema.field(name)) for name in keep)
    return replace(columns, kept=kept)


def _place(values: dict[str, Any], columns: Columns, folder: str) -> ImageRef:
    """Where a row says that its picture lies."""
    given = values.get(columns.uri or "")
    if given is None or given == "":
        raise ValueError(f"column {columns.uri} is empty")
    if not isinstance(given, str):
        raise ValueError(f"column {columns.uri} holds no text")
    uri = check_uri(given)
    if is_path(uri) and not os.path.isabs(uri):
        return ImageRef(f"{folder}/{uri}", posixpath.normpath(uri))
    return ImageRef(uri, basename(uri))


def _asked(ref: ImageRef, values: dict[str, Any], columns: Columns) -> ImageRef:
    """A picture with what its row asks of it, and with what is kept."""
    if columns.filename:
        ref = ref._replace(filename=value_of(values, columns.filename))
    if not columns.own_tasks():
        return ref
    tasks = tuple(dict.fromkeys(fill(task, values) for task in columns.tasks))
    kept = tuple(convert(values.get(field.name), field) for field in columns.kept)
    return ref._replace(tasks=tasks, columns=(kept,) * len(tasks) if kept else ())


def _plain(field: pa.Field) -> pa.Field:
    """A column as it is written: where it came as numbers into a dictionary, as what those stand for."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind)


def _problem(place: str, columns: Columns, why: str) -> ImageRef:
    """A picture that nobody can look for, named by where it should have been told."""
    name = posixpath.basename(place)
    return ImageRef(place, name, columns.tasks if columns.own_tasks() else (), problem=f"{name}: {why}")
