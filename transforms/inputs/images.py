"""List images: patterns for files, folders, globs and URLs become references."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from ..core.records import ImageRef
from ..core.shuffle import DistinctRefs
from ..images.formats import EXTENSIONS
from ..io.containers.location import is_archive
from ..io.containers.tar import list_members
from ..io.object_stores.base import Stores
from ..io.retry import RetryPolicy
from ..io.uris import (
    LOCAL,
    OBJECT_STORE_SCHEMES,
    basename,
    check_uri,
    display_uri,
    path_of,
    plain_path,
    scheme_of,
    split_bucket,
)
from .bucket_listing import GlobLister, OtherFiles, PendingFolder, has_extension

REFS, FOLDERS = "refs", "folders"


class ReadImages(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """References to the images that the patterns match, each image once, and to what is skipped in folders.

    A pattern is a file, a folder, a glob or an ``http(s)://`` or ``data:`` URI. Files are on disk or in a bucket
    (``s3://``, ``gs://``, ``az://``, ``hdfs://``). A folder stands for the files with the extension of an image in it
    and its subfolders, a tar archive for the images in it. ``**`` in a glob matches any number of folders. Files in a
    folder with other extensions become one reference with ``skipped`` for each folder and extension.

    Raises:
        ValueError: if there is no pattern, or one is invalid.
    """

    def __init__(self, *patterns: str) -> None:
        super().__init__()
        if not patterns:
            raise ValueError("no input: give a file, a folder or a glob")
        self.patterns = [absolute_pattern(pattern) for pattern in patterns]

    def expand(self, pbegin: PBegin) -> PCollection[ImageRef]:
        """Return the references: first levels are listed, then their folders in parallel, then the archives."""
        listed = (
            pbegin
            # As bytes: Beam's coder for text refuses file names that are not UTF-8.
            | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
            | "List" >> beam.ParDo(_ListFirstLevel()).with_outputs(REFS, FOLDERS)
        )
        below = listed[FOLDERS] | "Spread folders" >> beam.Reshuffle() | "List folders" >> beam.ParDo(_ListFolder())
        return (
            (listed[REFS], below)
            | "All" >> beam.Flatten()
            | "Each once" >> DistinctRefs()
            | "Look into archives" >> beam.ParDo(_ListArchive())
        )


class _ListFirstLevel(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, pattern: bytes) -> Iterator[TaggedOutput[str, Any]]:
        for found in list_first_level(os.fsdecode(pattern), self.stores):
            yield TaggedOutput(FOLDERS if isinstance(found, PendingFolder) else REFS, found)


class _ListFolder(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, folder: PendingFolder) -> Iterator[ImageRef]:
        yield from list_folder(folder, self.stores)


class _ListArchive(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        yield from list_archive(ref, self.stores) if is_archive(ref.uri) else [ref]


def list_archive(ref: ImageRef, stores: Stores | None = None) -> Iterator[ImageRef]:
    """Yield the images in a tar archive; if it is broken or can't be read, at the end ``ref`` with a ``problem``."""
    try:
        for member in list_members(ref.uri, EXTENSIONS, stores):
            yield ImageRef(member.uri, member.name, inside=member)
    except ValueError as error:
        yield ref._replace(problem=f"{ref.filename}: {error}")


def absolute_pattern(pattern: str) -> str:
    """Return a pattern with an absolute path, since workers may run in another folder. URIs stay as they are.

    Raises:
        ValueError: if the URI is invalid, names no bucket, or is an archive behind http(s).
    """
    scheme = scheme_of(pattern)
    if scheme == LOCAL:
        return plain_path(path_of(pattern))
    if scheme not in OBJECT_STORE_SCHEMES:
        if is_archive(pattern):
            raise ValueError(f"{display_uri(pattern)}: archives are read from a disk or a bucket: copy it there")
        return check_uri(pattern)
    if not split_bucket(pattern)[0]:
        raise ValueError(f"{pattern} names no bucket: give SCHEME://BUCKET/NAME")
    return pattern


def list_images(pattern: str, stores: Stores | None = None) -> Iterator[ImageRef]:
    """Yield the images that one absolute pattern matches, in no order.

    A pattern that is the name of an existing file or folder means that, even if it has wildcards. In a folder, hidden
    files and files without the extension of an image are left out. Archives are yielded as one reference.

    Raises:
        OSError: if a folder or bucket can't be listed.
    """
    stores = stores or Stores()
    for found in list_first_level(pattern, stores):
        below = list_folder(found, stores) if isinstance(found, PendingFolder) else [found]
        yield from (ref for ref in below if not ref.skipped)


def list_first_level(pattern: str, stores: Stores) -> Iterator[ImageRef | PendingFolder]:
    """Yield the images on the first level of an absolute pattern, what is skipped there, and the folders there."""
    scheme = scheme_of(pattern)
    if scheme in OBJECT_STORE_SCHEMES:
        yield from _lister(stores).list_first_level(pattern)
    elif scheme != LOCAL:
        yield ImageRef(pattern, basename(pattern))
    elif os.path.isdir(pattern):
        yield from _scan_folder(pattern, pattern)
    elif os.path.lexists(pattern):
        yield ImageRef(pattern, os.path.basename(pattern))
    else:
        root = _literal_folder(pattern)
        for path in glob.iglob(pattern, recursive=True):
            # For "nothing/**" glob yields "nothing/" even if it does not exist.
            if os.path.lexists(path) and not os.path.isdir(path):
                yield ImageRef(path, os.path.relpath(path, root))


def list_folder(folder: PendingFolder, stores: Stores) -> Iterator[ImageRef]:
    """Yield the images in a folder and all its subfolders, and what is skipped there."""
    if scheme_of(folder.uri) in OBJECT_STORE_SCHEMES:
        yield from _lister(stores).list_folder(folder)
        return
    for found in _scan_folder(folder.uri, folder.root):
        if isinstance(found, PendingFolder):
            yield from list_folder(found, stores)
        else:
            yield found


def first_unmatched(patterns: Iterable[str]) -> str | None:
    """Return the first pattern that matches no image; None if each matches one."""
    stores = Stores()
    for pattern in patterns:
        if next(list_images(absolute_pattern(pattern), stores), None) is None:
            return pattern
    return None


def _lister(stores: Stores) -> GlobLister:
    return GlobLister(stores, RetryPolicy(), EXTENSIONS)


def _scan_folder(folder: str, root: str) -> Iterator[ImageRef | PendingFolder]:
    """Yield the images, the subfolders and the skipped files in a local folder; names are relative to ``root``.

    Raises:
        OSError: if the folder can't be listed. It stops the job: without it images would be missing unnoticed.
    """
    others = OtherFiles()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield PendingFolder(entry.path, root, "")
            elif entry.is_dir():
                continue
            elif has_extension(entry.name, EXTENSIONS):
                yield ImageRef(entry.path, os.path.relpath(entry.path, root))
            else:
                others.add(entry.path, os.path.relpath(entry.path, root))
    yield from others.refs()


def _literal_folder(pattern: str) -> str:
    """Return the longest folder of a local glob that has no wildcard in it."""
    parts = PurePath(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return os.path.join(*parts[:fixed])
