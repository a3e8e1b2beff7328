"""List the files on a disk that match a folder or a glob. Links to folders are followed, and loops of links end.

What could not be listed, and links that are not followed, come as references with ``skipped``.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePath

from ..core.records import UNLISTED, ImageRef, Skipped
from .bucket_listing import OtherFiles, PendingFolder, has_extension

LOOP = "links to a folder that holds the link"
DEAD_LINK = "links that lead nowhere"


def list_first_level(pattern: str, extensions: frozenset[str]) -> Iterator[ImageRef | PendingFolder]:
    """Yield what an absolute pattern names: a file, the first level of a folder, or all files that a glob matches.

    Args:
        extensions: those of the files that a folder stands for, in lower case.

    Raises:
        OSError: if the folder that the pattern begins with can't be listed.
    """
    if os.path.isdir(pattern):
        yield from _scan(pattern, pattern, extensions)
    elif os.path.lexists(pattern):
        yield ImageRef(pattern, os.path.basename(pattern))
    else:
        yield from list_glob(pattern)


def list_folder(folder: PendingFolder, extensions: frozenset[str]) -> Iterator[ImageRef]:
    """Yield the files in a folder and all its subfolders, and what is skipped there. See ``list_first_level``."""
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            for found in _scan(here.uri, here.root, extensions):
                if isinstance(found, PendingFolder):
                    folders.append(found)
                else:
                    yield found
        except OSError as error:
            yield _unlisted(here.uri, here.root, error)


def list_glob(pattern: str) -> Iterator[ImageRef]:
    """Yield the files that an absolute glob matches, and what is skipped on the way. The syntax is that of ``glob``.

    ``*`` follows each link to a folder. ``**`` follows those that do not lead back to a folder that holds the link.

    Raises:
        OSError: if the folder before the first wildcard can't be listed.
    """
    root, parts = split_local_glob(pattern)
    if not parts or not os.path.isdir(root):
        return
    with os.scandir(root):
        yield from _glob(root, parts, root)


def split_local_glob(pattern: str) -> tuple[str, list[str]]:
    """Split an absolute local glob into its longest folder without wildcards, and the names that follow."""
    parts = PurePath(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return os.path.join(*parts[:fixed]), list(parts[fixed:])


def _scan(folder: str, root: str, extensions: frozenset[str]) -> Iterator[ImageRef | PendingFolder]:
    """Yield the images, the subfolders and what is skipped in a folder; names are relative to ``root``.

    Raises:
        OSError: if the folder can't be listed.
    """
    others = OtherFiles()
    # What os.path.relpath returns, because the folder is the root or below it. relpath takes longer than all else here.
    prefix = os.path.join(root, "")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = entry.path.removeprefix(prefix)
            if _is_folder(entry):
                loop = entry.is_symlink() and _leads_back(entry.path, root)
                yield _skipped_link(entry.path, root, LOOP) if loop else PendingFolder(entry.path, root, "")
            elif has_extension(entry.name, extensions):
                yield ImageRef(entry.path, name)
            elif _is_dead(entry):
                yield _skipped_link(entry.path, root, DEAD_LINK)
            else:
                others.add(folder, name)
    yield from others.refs()


def _glob(folder: str, parts: list[str], root: str) -> Iterator[ImageRef]:
    """Yield the files below a folder whose names match ``parts``, and what is skipped; names relative to ``root``."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        names = [name for name in rest if name != "**"] or ["*"]
        # A link that the last name of the glob matches is a file, and fails as such.
        is_file = re.compile(fnmatch.translate(names[0])).match if len(names) == 1 else lambda _: None
        for found in _folders(folder, root, is_file):
            if isinstance(found, ImageRef):
                yield found
            elif rest[:1] != ["**"] or found == folder:
                yield from _glob(found, rest or ["*"], root)
        return
    try:
        paths = list(_matches(folder, part))
    except OSError as error:
        yield _unlisted(folder, root, error)
        return
    for path in paths:
        if os.path.isdir(path):
            yield from _glob(path, rest, root) if rest else ()
        elif not rest:
            yield ImageRef(path, os.path.relpath(path, root))


def _matches(folder: str, part: str) -> Iterator[str]:
    """Yield the paths of the entries of a folder whose names match one part of a glob.

    Raises:
        OSError: if the folder can't be listed.
    """
    if not glob.has_magic(part):
        path = os.path.join(folder, part)
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield path
        return
    match = re.compile(fnmatch.translate(part)).match
    with os.scandir(folder) as entries:
        for entry in entries:
            if match(entry.name) and (part.startswith(".") or not entry.name.startswith(".")):
                yield entry.path


def _folders(folder: str, root: str, is_file: Callable[[str], object]) -> Iterator[str | ImageRef]:
    """Yield a folder and all its subfolders that are not hidden, and what is skipped there.

    Args:
        is_file: returns None for names that no file of the glob has.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        yield here
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if not _is_folder(entry):
                        # Such a name may be that of a folder on a disk that is not mounted.
                        if not os.path.splitext(entry.name)[1] and not is_file(entry.name) and _is_dead(entry):
                            yield _skipped_link(entry.path, root, DEAD_LINK)
                    elif entry.is_symlink() and _leads_back(entry.path, root):
                        yield _skipped_link(entry.path, root, LOOP)
                    else:
                        folders.append(entry.path)
        except OSError as error:
            yield _unlisted(here, root, error)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one. A link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _leads_back(link: str, root: str) -> bool:
    """Return whether a link names one of the folders that were entered on the way to it, or a folder above these."""
    target = os.path.realpath(link)
    folder = os.path.dirname(link)
    while len(folder) >= len(root):
        if os.path.commonpath([target, os.path.realpath(folder)]) == target:
            return True
        if folder == root:
            return False
        folder = os.path.dirname(folder)
    return False


def _is_dead(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _skipped_link(link: str, root: str, kind: str) -> ImageRef:
    return ImageRef(link, os.path.relpath(link, root), skipped=Skipped(kind))


def _unlisted(folder: str, root: str, error: OSError) -> ImageRef:
    kind = f"{UNLISTED} ({error.strerror})"
    return ImageRef(folder, os.path.relpath(folder, root), skipped=Skipped(kind))
