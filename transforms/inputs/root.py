"""The folder that a list names its pictures in: names are joined to it, and names without extension are looked up."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator

from ..images.formats import EXTENSIONS
from ..io.object_stores.base import Stores
from ..io.retry import RetryPolicy
from ..io.uris import LOCAL, OBJECT_STORE_SCHEMES, join_uri, scheme_of, split_bucket
from .bucket_listing import has_extension
from .patterns.patterns import absolute_pattern

# Files that a message about an ambiguous name lists.
MAX_NAMES_SHOWN = 5


class Root:
    """Finds the files of names below ``folder``, an absolute path or a folder in a bucket, without a slash at its end.

    Each folder is listed at most once. Use an object from one thread only.
    """

    def __init__(self, folder: str, stores: Stores | None = None) -> None:
        self.folder = folder
        self._stores = stores or Stores()
        # By folder: the names of its files, and the names of its images by the part before their extension.
        self._listed: dict[str, tuple[set[str], dict[str, list[str]]]] = {}

    def complete(self, name: str) -> str:
        """Return the relative path ``name`` with the extension of the only image that is named so.

        A name that has the extension of an image, and the name of a file without any, are returned unchanged.

        Raises:
            ValueError: if no image has this name, or several have; or if the folder is not readable.
            OSError: if a bucket can't be listed.
        """
        if has_extension(name, EXTENSIONS):
            return name
        parent, stem = posixpath.split(name)
        folder = join_uri(self.folder, parent) if parent else self.folder
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        files, images = self._listed[folder]
        found = sorted(images.get(stem, ()))
        if stem in files:
            return name
        if not found:
            raise ValueError(f"no picture in {folder} is named {stem}.*: correct the name, or give another root")
        if len(found) > 1:
            shown = ", ".join(found[:MAX_NAMES_SHOWN])
            raise ValueError(
                f"{stem} names {len(found)} pictures in {folder}: {shown}; write the extension into the list"
            )
        return posixpath.join(parent, found[0])

    def _list(self, folder: str) -> tuple[set[str], dict[str, list[str]]]:
        files: set[str] = set()
        images: dict[str, list[str]] = {}
        for name in self._names(folder):
            files.add(name)
            if has_extension(name, EXTENSIONS):
                images.setdefault(posixpath.splitext(name)[0], []).append(name)
        return files, images

    def _names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder, without those in its subfolders. A missing folder has none."""
        if scheme_of(folder) == LOCAL:
            try:
                with os.scandir(folder) as entries:
                    yield from (entry.name for entry in entries if not entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return
            except PermissionError as error:
                raise ValueError(f"{folder} can't be listed: {error.strerror}; allow to read the folder") from error
            return
        for entry in self._stores.entries(scheme_of(folder), f"{folder}/", False, RetryPolicy()):
            if not entry.is_folder:
                yield entry.uri[len(folder) + 1 :]


def absolute_root(folder: str) -> str:
    """Return a folder, on a disk or in a bucket, in the form that ``Root`` takes.

    Raises:
        ValueError: if ``folder`` is neither a path nor in a bucket.
    """
    if scheme_of(folder) == LOCAL:
        return absolute_pattern(folder)
    if scheme_of(folder) not in OBJECT_STORE_SCHEMES:
        raise ValueError(f"root {folder}: give a local folder, or a URI with {', '.join(OBJECT_STORE_SCHEMES)}")
    return absolute_pattern(folder).removesuffix("/")


def check_root(folder: str) -> str:
    """Return ``absolute_root(folder)``, after a check that the folder exists.

    Raises:
        ValueError: if it does not exist, or is neither a local folder nor a folder in a bucket.
        OSError: if the bucket can't be listed.
    """
    root = absolute_root(folder)
    if scheme_of(root) == LOCAL:
        exists = os.path.isdir(root)
    else:
        prefix = f"{root}/" if split_bucket(root)[1] else root
        exists = next(Stores().entries(scheme_of(root), prefix, False, RetryPolicy()), None) is not None
    if not exists:
        raise ValueError(f"root {folder}: no such folder; give the folder that holds the pictures")
    return root
