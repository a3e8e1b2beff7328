"""Read manifests: tables with an image in each row, columns for prompts, and columns to keep in the output."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection

from ...models.tasks import Task
from ..core.kept_names import name_columns
from ..core.prompt_templates import column_text, fill_template, named_columns
from ..core.records import ANNOTATION_SCHEMA, ImageRef
from ..core.shuffle import DistinctRefs
from ..io.column_types import plain_type, stored_type, without_nulls
from ..io.containers.parquet_images import ListedImage, list_cells
from ..io.files import open_file
from ..io.object_stores.base import Stores
from ..io.parquet import open_parquet
from ..io.uris import basename, check_uri, is_path, join_uri, name_below
from .images import absolute_pattern, expand_pattern
from .lists.addresses import clean_address, path_hint
from .lists.survey import survey_manifests
from .lists.table_files import list_tables, partitions_of
from .lists.tables import TableRow, read_rows
from .lists.widening import widest
from .root import Root, absolute_root, check_root

R = TypeVar("R", TableRow, ListedImage)


@dataclass(frozen=True)
class Columns:
    """The columns of a manifest that are used.

    ``uri`` holds the place of the image, or ``image`` the image itself (Parquet only). ``filename`` holds the name of
    the image; without it the name is the end of the URI. ``tasks`` may name columns in braces. ``kept`` columns are
    copied to the rows of the output; ``sources`` are their names in the manifest if these differ. ``notes`` are lines
    for the user about what is not kept as it is in the manifest. ``root`` is the folder, on a disk or in a bucket, that
    relative paths are relative to, in place of the folder of the manifest. Below it, a path without the extension of an
    image names the only image whose name is the path and an extension.

    Raises:
        ValueError: if neither ``uri`` nor ``image`` is given, or both; or if ``root`` is given with ``image``.
    """

    uri: str | None = None
    filename: str | None = None
    tasks: tuple[Task, ...] = ()
    kept: tuple[pa.Field, ...] = ()
    image: str | None = None
    root: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.image is None):
            raise ValueError(
                "a manifest has one column of pictures: give either --uri-column (URIs) or --image-column (bytes)"
            )
        if self.root is not None and self.uri is None:
            raise ValueError(f"root {self.root}: a column of bytes names no files; leave out --root, or --image-column")

    def names(self) -> list[str]:
        """Return the columns to read, each once, without the column ``image`` and those that are only kept.

        Raises:
            ValueError: if a brace in a prompt is single, or a pair of braces holds anything but a column's name.
        """
        plain = [name for name in (self.uri, self.filename) if name]
        return list(dict.fromkeys([*plain, *named_columns(self.tasks)]))

    def kept_types(self) -> dict[str, pa.DataType]:
        """Return the types in which kept columns are stored, by their names in the manifest."""
        return {self.sources.get(one.name, one.name): one.type for one in self.kept}

    def own_tasks(self) -> bool:
        """Return whether each reference gets tasks of its own: a prompt names a column, or a column is kept."""
        return bool(self.kept or named_columns(self.tasks))


class ReadManifests(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """A reference for each row of the manifests that the patterns match.

    Manifests are ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.parquet`` files, or folders of these, on disk or in
    a bucket. A folder named ``KEY=VALUE`` above a file gives its rows a column of text, ``KEY``. Other files in folders
    become references with ``skipped``. A relative path in a manifest is relative to the folder of the file. An image in
    a column of Parquet has the URI ``FILE#COLUMN/NUMBER``, followed by its path if the row has one. A row without a
    usable image becomes a reference with a ``problem``, which fails at stage ``list``.

    Raises:
        ValueError: if a pattern is invalid.
    """

    def __init__(self, patterns: Sequence[str], columns: Columns) -> None:
        super().__init__()
        self.patterns = [absolute_pattern(pattern) for pattern in patterns]
        self.columns = replace(columns, root=absolute_root(columns.root)) if columns.root else columns

    def expand(self, pbegin: PBegin) -> PCollection[ImageRef]:
        """Return the references: the manifests are listed, then each is read in one worker."""
        patterns = pbegin | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
        listed = (
            patterns
            | "List" >> beam.FlatMap(lambda pattern: map(os.fsencode, list_manifests(os.fsdecode(pattern))))
            | "Each once" >> beam.Distinct()
            | "Read" >> beam.ParDo(_ReadManifest(self.columns))
        )
        skipped = (
            patterns
            | "List skipped" >> beam.FlatMap(lambda pattern: list_skipped(os.fsdecode(pattern)))
            | "Skipped once" >> DistinctRefs()
        )
        return (listed, skipped) | "Listed" >> beam.Flatten()


class _ReadManifest(beam.DoFn):
    """Read manifests. They share a ``Root``, so that each folder is listed once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def start_bundle(self) -> None:
        self._root = Root(self.columns.root) if self.columns.root else None

    def process(self, path: bytes) -> Iterator[ImageRef]:
        yield from read_manifest(os.fsdecode(path), self.columns, self._root)


def list_manifests(pattern: str) -> Iterator[str]:
    """Yield the paths that an absolute pattern matches, sorted; see ``list_tables``.

    Braces stand for several patterns, as in ``images.expand_pattern``.

    Raises:
        ValueError: if the pattern or one of the files can't be a manifest.
        OSError: if a folder can't be listed, or a name without wildcards that braces stand for does not exist.
    """
    names = expand_pattern(pattern, Stores())
    for name in names:
        paths = [found for found in list_tables(name) if isinstance(found, str)]
        if len(names) > 1 and not paths and not glob.has_magic(name):
            raise FileNotFoundError(f"manifest {name}: no such file: add it, or leave it out of the braces")
        yield from paths


def list_skipped(pattern: str) -> Iterator[ImageRef]:
    """Yield a reference with ``skipped`` for each kind of files that ``list_manifests`` leaves out of a folder."""
    for name in expand_pattern(pattern, Stores()):
        yield from (found for found in list_tables(name) if isinstance(found, ImageRef))


def read_manifest(path: str, columns: Columns, root: Root | None = None) -> Iterator[ImageRef]:
    """Yield a reference for each row of one manifest.

    A broken row becomes a reference with a ``problem``. If the file breaks off, one more such reference comes last. If
    the file has another format than its name says, that is the only one. ``root`` is that of ``columns.root``, an
    absolute path, if other manifests share it.
    """
    if columns.image:
        yield from _read_images(path, columns, columns.image)
        return
    if columns.root and root is None:
        root = Root(columns.root)
    place = _Place(root.folder if root else posixpath.dirname(path), root, cache(os.path.islink))
    rows = read_rows(path, columns.names(), columns.kept_types())
    try:
        yield from _references(path, rows, columns, lambda row: _ref_of(row.values, columns, place))
    except ValueError as error:
        yield _failed_ref(path, columns, str(error))


def _read_images(path: str, columns: Columns, image: str) -> Iterator[ImageRef]:
    """Yield a reference for each row of a Parquet file that holds the images in column ``image``."""
    try:
        with open_file(path) as file:
            rows = list_cells(path, file, image, columns.names(), columns.kept_types())
            rows = _with_partitions(rows, path, open_parquet(path, file).schema_arrow.names, columns)
            yield from _references(path, rows, columns, lambda row: ImageRef(row.uri, row.name, inside=row.cell))
    except (OSError, ValueError, pa.ArrowException) as error:
        yield _failed_ref(path, columns, str(error))


def _with_partitions(
    rows: Iterable[ListedImage], path: str, there: Sequence[str], columns: Columns
) -> Iterator[ListedImage]:
    """Yield rows of a Parquet file, which has the columns ``there``, with the columns of its partitions."""
    added = {name: value for name, value in partitions_of(path).items() if name not in there}
    kept = list(columns.kept_types())
    for row in rows:
        if added and not row.problem:
            values = tuple(added.get(name, value) for name, value in zip(kept, row.kept, strict=True))
            row = row._replace(values=added | row.values, kept=values)
        yield row


def _references(path: str, rows: Iterable[R], columns: Columns, ref_of: Callable[[R], ImageRef]) -> Iterator[ImageRef]:
    for row in rows:
        try:
            if row.problem:
                raise ValueError(row.problem)
            yield _with_tasks(ref_of(row), row, columns)
        except ValueError as error:
            yield _failed_ref(f"{path}#{row.number}", columns, str(error))


def check_columns(
    patterns: Sequence[str],
    columns: Columns,
    keep: Sequence[str],
    *,
    taken: Iterable[str] = ANNOTATION_SCHEMA.names,
    published: Mapping[str, pa.DataType] | None = None,
) -> Columns:
    """Check the columns of all manifests, and return ``columns`` with those in ``keep`` as typed fields.

    A field has a type that holds the values of all manifests. See ``survey_manifests`` for what is read.

    Args:
        keep: columns to keep, ``SOURCE`` or ``SOURCE=NAME``; see ``name_columns``.
        taken: the names that kept columns can't have.
        published: the types of the columns that the rows of the output have already. They are used if they hold all
            values of the manifests.

    Raises:
        ValueError: if a pattern matches nothing, a column is missing or can't be kept, or ``columns.image`` can't hold
            images.
    """
    names = name_columns(keep, taken)
    sources = [name.source for name in names]
    if columns.image in (*columns.names(), *sources):
        raise ValueError(
            f"column {columns.image!r} holds the pictures: don't keep it, or name it in a prompt or as filename"
        )
    paths = _all_manifests(patterns)
    required = {name: _cure(name, columns) for name in columns.names()}
    survey = survey_manifests(paths, required, list(dict.fromkeys(sources)), columns.image)
    types = _fit_output({name.name: survey.types[name.source] for name in names}, published or {})
    kept = tuple(pa.field(name, kind) for name, kind in types.items())
    notes = (*filter(None, (name.note() for name in names)), *survey.notes)
    root = check_root(columns.root) if columns.root else None
    return replace(columns, kept=kept, sources={name.name: name.source for name in names}, notes=notes, root=root)


def _fit_output(types: dict[str, pa.DataType], published: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return ``types``, each replaced by the type of the ``published`` rows if that is wider."""
    for name, there in published.items():
        # An older version stored other types too, such as timestamps in nanoseconds.
        is_current = plain_type(there) == (stored := without_nulls(stored_type(there)))
        if is_current and name in types and widest(stored, types[name]) == stored:
            types = {**types, name: stored}
    return types


def _all_manifests(patterns: Sequence[str]) -> list[str]:
    """Return the manifests that the patterns match, each once.

    Raises:
        ValueError: if a pattern matches nothing, or a manifest has a name that does not end like one.
    """
    paths: dict[str, None] = {}
    for pattern in patterns:
        found = dict.fromkeys(list_manifests(absolute_pattern(pattern)))
        if not found:
            cure = path_hint(pattern) or "check the path, and quote a glob"
            what = "no table in this folder" if os.path.isdir(pattern) else "no such file"
            raise ValueError(f"manifest {pattern}: {what}; {cure}")
        paths.update(found)
    return list(paths)


class _Place(NamedTuple):
    """What relative paths of a manifest are relative to: ``folder``, which is that of ``root`` if there is one.

    ``is_link`` is ``os.path.islink`` with a cache, because the paths of a manifest share their folders.
    """

    folder: str
    root: Root | None
    is_link: Callable[[str], bool]


def _cure(name: str, columns: Columns) -> str:
    """Return the end of the message about a manifest without the column ``name``, from the use of the column."""
    if name == columns.uri:
        # The name may be the default, which the user did not give.
        return ": name its URI column"
    if name in named_columns(columns.tasks):
        return ": correct the prompt, and write {{ and }} for braces that are not around a column"
    return ""


def _ref_of(values: dict[str, Any], columns: Columns, place: _Place) -> ImageRef:
    """Return a reference to the image in the URI column.

    Raises:
        ValueError: if the column is empty or holds no valid URI.
    """
    given = values.get(columns.uri or "")
    if isinstance(given, bytes):
        # Some writers of Parquet leave out the mark that bytes are text. Names of local files may be no UTF-8.
        given = given.decode(errors="surrogateescape")
    if place.root and isinstance(given, int):
        given = str(given)
    if given is None or given == "":
        raise ValueError(f"column {columns.uri} is empty: fill it in")
    if not isinstance(given, str):
        raise ValueError(f"column {columns.uri} holds no text: give paths or URIs")
    uri = check_uri(clean_address(given, place.folder))
    if is_path(uri) and not os.path.isabs(uri):
        uri = place.root.complete(uri) if place.root else uri
        return ImageRef(join_uri(place.folder, uri, place.is_link), name_below(uri))
    uri = join_uri(place.folder, uri, place.is_link)
    return ImageRef(uri, basename(uri))


def _with_tasks(ref: ImageRef, row: TableRow | ListedImage, columns: Columns) -> ImageRef:
    """Return a reference with the file name, the filled-in tasks and the kept columns of its row.

    Raises:
        ValueError: if a column in a prompt is empty.
    """
    if columns.filename:
        ref = ref._replace(filename=column_text(row.values, columns.filename))
    if not columns.own_tasks():
        return ref
    tasks = tuple(dict.fromkeys(fill_template(task, row.values) for task in columns.tasks))
    stored = dict(zip(columns.kept_types(), row.kept, strict=True))
    kept = tuple(stored[columns.sources.get(one.name, one.name)] for one in columns.kept)
    return ref._replace(tasks=tasks, columns=(kept,) * len(tasks) if kept else ())


def _failed_ref(place: str, columns: Columns, why: str) -> ImageRef:
    """Return a reference that fails at stage ``list``. ``place`` is the manifest, with ``#NUMBER`` for a row."""
    name = posixpath.basename(place)
    return ImageRef(place, name, columns.tasks if columns.own_tasks() else (), problem=f"{name}: {why}")
