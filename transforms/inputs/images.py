"""List images: patterns for files, folders, globs and URLs become references."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from ..core.records import ImageRef
from ..core.shuffle import DistinctRefs
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

    Raises:
        ValueError: if there is no pattern, or one is invalid.
    """

    def __init__(self, *patterns: str, columns: Columns | None = None) -> None:
        super().__init__()
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
        return (
            (listed[REFS], below)
            | "All" >> beam.Flatten()
            | "Each once" >> DistinctRefs()
            | "Look into archives" >> beam.ParDo(_ListArchive(self.columns))
        )


class _ListFirstLevel(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, pattern: bytes) -> Iterator[TaggedOutput[str, Any]]:
        name, is_empty = os.fsdecode(pattern), True
        for found in list_first_level(name, self.stores):
            is_empty = False
            yield TaggedOutput(FOLDERS if isinstance(found, PendingFolder) else REFS, found)
        if is_empty and not glob.has_magic(name) and not (scheme_of(name) == LOCAL and os.path.lexists(name)):
            problem = f"{name}: no such file or folder: add it, and run the same command again"
            yield TaggedOutput(REFS, ImageRef(name, basename(name), problem=problem))


class _ListFolder(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, folder: PendingFolder) -> Iterator[ImageRef]:
        yield from list_folder(folder, self.stores)


class _ListArchive(beam.DoFn):
    def __init__(self, columns: Columns | None) -> None:
        self.stores, self.columns = Stores(), columns

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        if ref.problem or ref.skipped:
            if not self.columns or not is_json_count(ref):
                yield ref
        elif self.columns and not why_unread(ref.uri):
            yield from with_columns(ref, self.columns, self.stores)
        elif is_archive(ref.uri):
            yield from list_archive(ref, self.stores)
        else:
            yield ref._replace(problem=why_unread(ref.uri))


def _expand(pattern: bytes) -> list[bytes]:
    return [os.fsencode(each) for each in expand_pattern(os.fsdecode(pattern), Stores())]
