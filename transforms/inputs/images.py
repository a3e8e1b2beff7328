"""List images: patterns for files, folders, globs and URLs become references."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from ..core.records import ImageRef
from ..core.ref_columns import RefColumns, content_of, each_ref, in_columns
from ..core.shuffle import DistinctRefs
from ..images.formats import EXTENSIONS
from ..io.containers.location import is_archive
from ..io.object_stores.base import Stores
from ..io.uris import LOCAL, basename, scheme_of
from .bucket_listing import PendingFolder
from .json_beside import is_json_count, with_columns
from .manifest_columns import Columns
from .patterns.patterns import (
    absolute_pattern,
    expand_pattern,
    list_archive,
    list_first_level,
    list_folder,
    why_unread,
)

REFS, FOLDERS = "refs", "folders"
# No archive has a name that ends so.
_PICTURE_ENDINGS = tuple(extension.encode() for extension in EXTENSIONS)
_LONGEST_ENDING = max(map(len, _PICTURE_ENDINGS))


class ReadImages(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """References to the images that the patterns match, each image once, and to what is skipped in folders.

    A pattern is a file, a folder, a glob or an ``http(s)://`` or ``data:`` URI. Files are on disk, in a bucket
    (``s3://``, ``gs://``, ``az://``, ``hdfs://``), or in a dataset of the Hugging Face hub (``hf://``), at its commit
    when the transform is made. A folder stands for the files with the extension of an image in it and its subfolders, a
    tar archive for the images in it. ``**`` in a glob matches any number of folders. Braces stand for several patterns,
    unless there is a file of that very name. Files in a folder with other extensions become one reference with
    ``skipped`` for each folder and extension. A name that does not exist, and an archive of a kind that is not read,
    become references with a ``problem``.

    Args:
        columns: what to keep of the JSON file beside each picture, and the tasks that name its fields; see
            ``check_json_columns``. None: these files are not read.
        as_columns: yield ``RefColumns`` in place of the references that these can stand for.

    Raises:
        ValueError: if there is no pattern, or one is invalid.
    """

    def __init__(self, *patterns: str, columns: Columns | None = None, as_columns: bool = False) -> None:
        super().__init__()
        self.as_columns = as_columns
        if not patterns:
            raise ValueError("no input: give a file, a folder or a glob")
        self.patterns = [absolute_pattern(pattern) for pattern in patterns]
        self.columns = columns

    def expand(self, pbegin: PBegin) -> PCollection[ImageRef]:
        """Return the references: first levels are listed, then their folders in parallel, then the archives."""
        listed = (
            pbegin
            # As bytes: Beam's coder for text refuses file names that are not UTF-8.
            | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
            | "Expand braces" >> beam.FlatMap(_expand)
            | "List" >> beam.ParDo(_ListFirstLevel()).with_outputs(REFS, FOLDERS)
        )
        below = listed[FOLDERS] | "Spread folders" >> beam.Reshuffle() | "List folders" >> beam.ParDo(_ListFolder())
        refs = (
            (listed[REFS], below)
            | "All" >> beam.Flatten()
            | "Each once" >> DistinctRefs()
            | "Look into archives" >> beam.ParDo(_ListArchive(self.columns))
        )
        return refs if self.as_columns else refs | "One by one" >> beam.FlatMap(each_ref)


class _ListFirstLevel(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, pattern: bytes) -> Iterator[TaggedOutput[str, Any]]:
        name = os.fsdecode(pattern)
        folders: list[PendingFolder] = []
        is_empty = True
        for found in in_columns(_without_folders(list_first_level(name, self.stores), folders)):
            is_empty = False
            yield TaggedOutput(REFS, found)
        yield from (TaggedOutput(FOLDERS, folder) for folder in folders)
        is_local = scheme_of(name) == LOCAL
        if is_empty and not folders and not glob.has_magic(name) and not (is_local and os.path.lexists(name)):
            problem = f"{name}: no such file or folder: add it, and run the same command again"
            yield TaggedOutput(REFS, ImageRef(name, basename(name), problem=problem))


def _without_folders(found: Iterable[ImageRef | PendingFolder], folders: list[PendingFolder]) -> Iterator[ImageRef]:
    """Yield the references in ``found``, and append all else to ``folders``."""
    for each in found:
        if isinstance(each, PendingFolder):
            folders.append(each)
        else:
            yield each


class _ListFolder(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, folder: PendingFolder) -> Iterator[ImageRef | RefColumns]:
        yield from in_columns(list_folder(folder, self.stores))


class _ListArchive(beam.DoFn):
    def __init__(self, columns: Columns | None) -> None:
        self.stores, self.columns = Stores(), columns

    def process(self, element: ImageRef | RefColumns) -> Iterator[ImageRef | RefColumns]:
        refs: Iterable[ImageRef]
        if isinstance(element, ImageRef) or self.columns:
            refs = each_ref(element)
        else:
            is_picture = _end_as_pictures(element)
            yield element if is_picture.all() else element.take(is_picture)
            refs = element.take(~is_picture).refs()
        for ref in refs:
            yield from self._list(ref)

    def _list(self, ref: ImageRef) -> Iterator[ImageRef]:
        if ref.problem or ref.skipped:
            if not self.columns or not is_json_count(ref):
                yield ref
        elif self.columns and not why_unread(ref.uri):
            yield from with_columns(ref, self.columns, self.stores)
        elif is_archive(ref.uri):
            yield from list_archive(ref, self.stores)
        else:
            yield ref._replace(problem=why_unread(ref.uri))


def _end_as_pictures(refs: RefColumns) -> Any:
    """Return for each reference whether its URI has the extension of an image."""
    content, ends = content_of(refs.uris)
    lowered = content.lower()
    places = zip(np.maximum(ends[:-1], ends[1:] - _LONGEST_ENDING).tolist(), ends[1:].tolist(), strict=True)
    return np.array([lowered[start:end].endswith(_PICTURE_ENDINGS) for start, end in places], bool)


def _expand(pattern: bytes) -> list[bytes]:
    return [os.fsencode(each) for each in expand_pattern(os.fsdecode(pattern), Stores())]
