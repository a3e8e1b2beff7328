"""Find the first pattern that matches no picture, and say why."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...core.records import ImageRef
from ...core.summary import Count, SkippedCount, sum_counts
from ...io.containers.location import is_archive
from ...io.object_stores.base import Stores
from ...io.uris import LOCAL, scheme_of
from ..bucket_listing import TAR_IN_FOLDER, PendingFolder
from ..disk_listing import split_local_glob
from .patterns import (
    NO_PICTURE,
    absolute_pattern,
    expand_pattern,
    list_archive,
    list_first_level,
    list_folder,
    why_unread,
)


class Unmatched(NamedTuple):
    """A pattern that matches no picture, as it was given, and why not, with the cure."""

    pattern: str
    reason: str


def first_unmatched(patterns: Iterable[str]) -> Unmatched | None:
    """Return the first pattern that matches no picture; None if each matches one.

    A picture in an archive counts, and so does an archive that can't be read, which fails in the run.

    Raises:
        OSError: if a folder or bucket can't be listed.
        ValueError: if a pattern is invalid.
    """
    stores = Stores()
    for given in patterns:
        counts = []
        pattern = absolute_pattern(given)
        if (reason := why_unread(pattern)) and not os.path.isdir(pattern):
            return Unmatched(given, reason)
        for ref in _refs(pattern, stores):
            if not ref.skipped:
                break
            counts.append(Count.of_skipped(ref))
        else:
            return Unmatched(given, _reason(pattern, sum_counts(counts).skipped))
    return None


def _refs(pattern: str, stores: Stores) -> Iterator[ImageRef]:
    """Yield the pictures of a pattern, those in archives too, and what is skipped."""
    for each in expand_pattern(pattern, stores):
        for found in list_first_level(each, stores):
            for ref in list_folder(found, stores) if isinstance(found, PendingFolder) else [found]:
                yield from list_archive(ref, stores) if is_archive(ref.uri) and not ref.skipped else [ref]


def _reason(pattern: str, skipped: tuple[SkippedCount, ...]) -> str:
    is_local, is_tar = scheme_of(pattern) == LOCAL, is_archive(pattern) and not glob.has_magic(pattern)
    named = [each for each in skipped if not (is_tar and each.kind == NO_PICTURE)]
    there = ", ".join(f"{each.count} x {each.kind} (such as {each.example})" for each in named)
    if glob.has_magic(pattern) and not (is_local and os.path.lexists(pattern)):
        folder = split_local_glob(pattern)[0]
        if is_local and not os.path.isdir(folder):
            return f"there is no folder {folder}: check the path"
        what = f"the files that match hold no picture, but {there}" if there else "no file matches"
        return f"{what}: check the pattern, and quote it, so that the shell does not expand it"
    if is_local and not os.path.lexists(pattern):
        return "no such file or folder: check the path, and quote a glob"
    if not is_local and not skipped:
        return "no such object, and none in a folder of this name: check the name"
    if is_tar:
        return f"no picture in it{there and f', but {there}'}: give another archive"
    if any(each.kind == TAR_IN_FOLDER for each in skipped):
        return f"no picture in it, but {there}: to read the archives, give '{pattern.rstrip('/')}/**/*.tar*'"
    return f"no picture in it or its subfolders{there and f', but {there}'}: check the path"
