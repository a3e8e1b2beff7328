"""Where the pictures are: files, folders and globs, on disk or in a bucket, and URLs, to references."""

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
from ..io.uris import BUCKETS, LOCAL, basename, check_uri, path_of, scheme_of, shown, split_bucket
from .bucket_listing import GlobLister, PendingFolder

REFS, FOLDERS = "refs", "folders"


class ReadImages(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """References to the pictures that the patterns match: files, folders (walked, by extension), globs and URLs.

    Files may lie on disk or in a bucket (``s3://``, ``gs://``, ``az://``, ``hdfs://``). ``**`` in a glob crosses
    folders. Of a tar archive, compressed or not, that is named or matched by a glob, its members are the pictures. An
    ``http(s)://`` or ``data:`` URI is one picture. A picture that several patterns match comes once.

    Raises:
        ValueError: there is no pattern, or one that can't be any.
    """

    def __init__(self, *patterns: str) -> None:
        super().__init__()
        if not patterns:
            raise ValueError("no input: give a file, a folder or a glob")
        self.patterns = [anchored(pattern) for pattern in patterns]

    def expand(self, pbegin: PBegin) -> PCollection[ImageRef]:
        """List one level, spread the folders below over the workers, list those; then each picture once."""
        listed = (
            pbegin
            # As bytes, which file names are: Beam takes only text that is UTF-8.
            | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
            | "List" >> beam.ParDo(_ListTop()).with_outputs(REFS, FOLDERS)
        )
        below = listed[FOLDERS] | "Spread folders" >> beam.Reshuffle() | "List folders" >> beam.ParDo(_ListBelow())
        return (
            (listed[REFS], below)
            | "All" >> beam.Flatten()
            | "Each once" >> DistinctRefs()
            | "Look into archives" >> beam.ParDo(_LookInside())
        )


class _ListTop(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, pattern: bytes) -> Iterator[TaggedOutput[str, Any]]:
        for found in list_top(os.fsdecode(pattern), self.stores):
            yield TaggedOutput(FOLDERS if isinstance(found, PendingFolder) else REFS, found)


class _ListBelow(beam.DoFn):
    def __init__(self) -> None:
        self.stores = Stores()

    def process(self, folder: PendingFolder) -> Iterator[ImageRef]:
        yield from list_below(folder, self.stores)


class _LookInside(beam.DoFn):
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


def anchored(pattern: str) -> str:
    """A pattern that means the same on every worker, which may run in another folder than who plans the job.

    Raises:
        ValueError: it can't be any.
    """
    scheme = scheme_of(pattern)
    if scheme == LOCAL:
        return os.path.abspath(path_of(pattern))
    if scheme not in BUCKETS:
        if is_archive(pattern):
            raise ValueError(f"{shown(pattern)}: archives are read from a disk or a bucket, copy it there")
        return check_uri(pattern)
    if not split_bucket(pattern)[0]:
        raise ValueError(f"{pattern} names no bucket")
    return pattern


def list_images(pattern: str, stores: Stores | None = None) -> Iterator[ImageRef]:
    """The pictures that one anchored pattern matches, in no order.

    A name that exists is that name, whatever brackets it has. Below a folder, hidden files and those without an
    image's extension are passed over; a file named, or matched by a glob, is taken as it is.
    """
    stores = stores or Stores()
    for found in list_top(pattern, stores):
        if isinstance(found, PendingFolder):
            yield from list_below(found, stores)
        else:
            yield found


def list_top(pattern: str, stores: Stores) -> Iterator[ImageRef | PendingFolder]:
    """The pictures on the first level of a pattern, and the folders that may hold more."""
    scheme = scheme_of(pattern)
    if scheme in BUCKETS:
        yield from _bucket(stores).top(pattern)
    elif scheme != LOCAL:
        yield ImageRef(pattern, basename(pattern))
    elif os.path.isdir(pattern):
        yield from _level(pattern, pattern)
    elif os.path.lexists(pattern):
        yield ImageRef(pattern, os.path.basename(pattern))
    else:
        root = _root(pattern)
        for path in glob.iglob(pattern, recursive=True):
            # Of "nothing/**" Python's glob says that there is "nothing/".
            if os.path.lexists(path) and not os.path.isdir(path):
                yield ImageRef(path, os.path.relpath(path, root))


def list_below(folder: PendingFolder, stores: Stores) -> Iterator[ImageRef]:
    """The pictures in a folder, however deep they lie."""
    if scheme_of(folder.uri) in BUCKETS:
        yield from _bucket(stores).below(folder)
        return
    for found in _level(folder.uri, folder.root):
        if isinstance(found, PendingFolder):
            yield from list_below(found, stores)
        else:
            yield found


def without_pictures(patterns: Iterable[str]) -> str | None:
    """The first pattern that matches no picture; None when each matches one."""
    stores = Stores()
    for pattern in patterns:
        if next(list_images(anchored(pattern), stores), None) is None:
            return pattern
    return None


def _bucket(stores: Stores) -> GlobLister:
    return GlobLister(stores, RetryPolicy(), EXTENSIONS)


def _level(folder: str, root: str) -> Iterator[ImageRef | PendingFolder]:
    """What is in a folder of this machine. One that can't be listed stops the job: passed over, its pictures would be
    missing without a word."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield PendingFolder(entry.path, root, "")
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS and not entry.is_dir():
                yield ImageRef(entry.path, os.path.relpath(entry.path, root))


def _root(pattern: str) -> str:
    """The longest folder of a glob that has no wildcard in it."""
    parts = PurePath(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return os.path.join(*parts[:fixed])
