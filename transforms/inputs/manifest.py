"""Read manifests: tables with an image in each row, columns for prompts, and columns to keep in the output."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from ..core.prompt_templates import column_text
from ..core.records import ImageRef
from ..core.shuffle import DistinctRefs
from ..io.containers.parquet_images import ListedImage, list_cells
from ..io.files import open_file
from ..io.parquet import open_table
from ..io.uris import basename, check_uri, display_address, is_path, join_uri, name_below
from .lists.addresses import clean_address
from .lists.table_files import find_manifests, partitions_of
from .lists.tables import TableRow, read_rows
from .manifest_columns import Columns, asked_refs, with_tasks
from .patterns.patterns import absolute_pattern
from .root import Root, absolute_root

PATHS, SKIPPED = "paths", "skipped"

# A URL whose parts need no check and no decoding: the checks of all other URIs would return it unchanged.
_PLAIN_URL = re.compile(r"https?://[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/[A-Za-z0-9_.~-]+)+")

R = TypeVar("R", TableRow, ListedImage)


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
        found = (
            pbegin
            | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
            | "List" >> beam.FlatMap(_list).with_outputs(PATHS, SKIPPED)
        )
        read = found[PATHS] | "Each once" >> beam.Distinct() | "Read" >> beam.ParDo(_ReadManifest(self.columns))
        skipped = found[SKIPPED] | "Skipped once" >> DistinctRefs()
        return (read, skipped) | "Listed" >> beam.Flatten()


def _list(pattern: bytes) -> Iterator[TaggedOutput[str, Any]]:
    for found in find_manifests(os.fsdecode(pattern)):
        yield TaggedOutput(SKIPPED, found) if isinstance(found, ImageRef) else TaggedOutput(PATHS, os.fsencode(found))


class _ReadManifest(beam.DoFn):
    """Read manifests. They share a ``Root``, so that each folder is listed once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def start_bundle(self) -> None:
        self._root = Root(self.columns.root) if self.columns.root else None

    def process(self, path: bytes) -> Iterator[ImageRef]:
        yield from read_manifest(os.fsdecode(path), self.columns, self._root)


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
            if partitions := partitions_of(path):
                there = open_table(path, file).schema_arrow.names
                added = {name: value for name, value in partitions.items() if name not in there}
                rows = _with_partitions(rows, added, columns)
            yield from _references(path, rows, columns, lambda row: ImageRef(row.uri, row.name, inside=row.cell))
    except (OSError, ValueError, pa.ArrowException) as error:
        yield _failed_ref(path, columns, str(error))


def _with_partitions(
    rows: Iterable[ListedImage], added: Mapping[str, str | None], columns: Columns
) -> Iterator[ListedImage]:
    """Yield rows of a Parquet file with the columns of its partitions that the file lacks, ``added``."""
    kept = list(columns.kept_types())
    for row in rows:
        if not row.problem:
            values = tuple(added.get(name, value) for name, value in zip(kept, row.kept, strict=True))
            row = row._replace(values={**added, **row.values}, kept=values)
        yield row


def _references(path: str, rows: Iterable[R], columns: Columns, ref_of: Callable[[R], ImageRef]) -> Iterator[ImageRef]:
    for row in rows:
        place = f"{path}#{row.number}"
        try:
            if row.problem:
                raise ValueError(row.problem)
            ref = ref_of(row)
            if columns.filename:
                ref = ref._replace(filename=column_text(row.values, columns.filename))
        except ValueError as error:
            ref = _known_ref(row, columns, ref_of) or ImageRef(place, posixpath.basename(place))
            ref = ref._replace(problem=f"{posixpath.basename(place)}: {error}")
        yield from asked_refs(ref, row, columns, posixpath.basename(place))


def _known_ref(row: R, columns: Columns, ref_of: Callable[[R], ImageRef]) -> ImageRef | None:
    """Return a reference to what a row that fails says about its picture; None if it has no address.

    An address that can't be used is kept as it is, without its secrets.
    """
    try:
        ref = ref_of(row)
    except ValueError:
        given = row.values.get(columns.uri or "")
        if isinstance(given, bytes):
            given = given.decode(errors="surrogateescape")
        elif columns.root and isinstance(given, int):
            given = str(given)
        if not isinstance(given, str) or not given.strip():
            return None
        address = display_address(given)
        ref = ImageRef(address, name_below(posixpath.basename(address)) or address)
    filename = row.values.get(columns.filename or "")
    return ref if filename is None or not str(filename).strip() else ref._replace(filename=str(filename))


class _Place(NamedTuple):
    """What relative paths of a manifest are relative to: ``folder``, which is that of ``root`` if there is one.

    ``is_link`` is ``os.path.islink`` with a cache, because the paths of a manifest share their folders.
    """

    folder: str
    root: Root | None
    is_link: Callable[[str], bool]


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
    if _PLAIN_URL.fullmatch(given):
        return ImageRef(given, given[given.rindex("/") + 1 :])
    uri = check_uri(clean_address(given, place.folder))
    if is_path(uri) and not os.path.isabs(uri):
        uri = place.root.complete(uri) if place.root else uri
        return ImageRef(join_uri(place.folder, uri, place.is_link), name_below(uri))
    uri = join_uri(place.folder, uri, place.is_link)
    return ImageRef(uri, basename(uri))


def _failed_ref(path: str, columns: Columns, why: str) -> ImageRef:
    """Return a reference to a manifest that can't be read to its end. It fails at stage ``list``."""
    name = posixpath.basename(path)
    return with_tasks(ImageRef(path, name, problem=f"{name}: {why}"), TableRow(0, {}), columns, f"{name}: ")
