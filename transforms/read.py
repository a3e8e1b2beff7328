"""Where the pictures are: patterns to references. Local files, folders and globs so far."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection

from .records import ImageRef

JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
OTHER_EXTENSIONS = (".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".ico")
EXTENSIONS = frozenset((*JPEG_EXTENSIONS, *OTHER_EXTENSIONS))


class ReadImages(beam.PTransform[PBegin, PCollection[ImageRef]]):
    """References to the pictures that the patterns match: files, folders (walked, by extension) and globs.

    ``**`` in a glob crosses folders. A picture that several patterns match comes once.

    Raises:
        ValueError: there is no pattern.
    """

    def __init__(self, *patterns: str) -> None:
        super().__init__()
        if not patterns:
            raise ValueError("no input: give a file, a folder or a glob")
        # Workers may run in another folder than the command that plans the job.
        self.patterns = [os.path.abspath(pattern) for pattern in patterns]

    def expand(self, pbegin: PBegin) -> PCollection[ImageRef]:
        """Create the patterns, list them, and spread the references over the workers."""
        return (
            pbegin
            # As bytes, which file names are: Beam takes only text that is UTF-8.
            | "Patterns" >> beam.Create([os.fsencode(pattern) for pattern in self.patterns])
            | "List" >> beam.FlatMap(lambda pattern: list_images(os.fsdecode(pattern)))
            | "Key by picture" >> beam.WithKeys(lambda ref: ref.key)
            | "Group by picture" >> beam.GroupByKey()
            | "One of each" >> beam.MapTuple(lambda _, refs: min(refs, key=lambda ref: ref.filename))
        )


def list_images(pattern: str) -> Iterator[ImageRef]:
    """The pictures that one absolute pattern matches, in no order.

    A name that exists is that name, whatever brackets it has. Below a folder, hidden files and those without an
    image's extension are passed over; a file named, or matched by a glob, is taken as it is.
    """
    if os.path.isdir(pattern):
        root, paths = pattern, _walk(pattern)
    elif os.path.lexists(pattern):
        root, paths = os.path.dirname(pattern), iter([pattern])
    else:
        root = _root(pattern)
        # Of "nothing/**" Python's glob says that there is "nothing/".
        paths = (
            path for path in glob.iglob(pattern, recursive=True) if os.path.lexists(path) and not os.path.isdir(path)
        )
    for path in paths:
        yield ImageRef(uri=path, filename=os.path.relpath(path, root))


def without_pictures(patterns: Iterable[str]) -> str | None:
    """The first pattern that matches no picture; None when each matches one."""
    for pattern in patterns:
        if next(list_images(os.path.abspath(pattern)), None) is None:
            return pattern
    return None


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=_complain):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield os.path.join(parent, name)


def _complain(error: OSError) -> None:
    """A folder that can't be listed stops the job: passed over, its pictures would be missing without a word."""
    raise error


def _root(pattern: str) -> str:
    """The longest folder of a glob that has no wildcard in it."""
    parts = PurePath(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return os.path.join(*parts[:fixed])
