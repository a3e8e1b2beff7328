"""Resolve the hard and symbolic links of a tar archive to the members that they name; nothing on a disk is followed."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

# As Linux does: a longer chain of links is a loop.
MAX_CHAIN = 40


class _Link(NamedTuple):
    """A link that is a picture: the name of the picture, the path that it names, and its place in the archive.

    ``part`` is the number of the archive, if several are joined in one file.
    """

    picture: str
    target: str
    number: int
    part: int
    is_hard: bool


class Links:
    """The links of one archive. All members are passed to ``see``, then ``resolve`` is called, then files are offered.

    In memory are the links and the files that they name, and no other members.
    """

    def __init__(self) -> None:
        # The path of each link -> the path that it names.
        self._targets: dict[str, str] = {}
        self._wanted: list[_Link] = []
        self._files: dict[str, list[tuple[int, int, tarfile.TarInfo]]] = {}

    def see(self, info: tarfile.TarInfo) -> None:
        """Note where a member leads if it is a link. A later member of the same name replaces an earlier one."""
        path = posixpath.normpath(info.name)
        if info.issym() or info.islnk():
            self._targets[path] = _target(info)
        else:
            self._targets.pop(path, None)

    def add(self, picture: str, info: tarfile.TarInfo, number: int, part: int = 0) -> None:
        """Add a link that is a picture of this name. ``number`` is its place among all members of all parts."""
        self._wanted.append(_Link(picture, _target(info), number, part, info.islnk()))

    def resolve(self) -> bool:
        """Find out which files the links name that were added. Return False if they name none inside the archive."""
        paths = map(self._without_links, (link.target for link in self._wanted))
        self._files = {path: [] for path in paths if path and not path.startswith("../")}
        return bool(self._files)

    def offer(self, info: tarfile.TarInfo, number: int, part: int = 0) -> None:
        """Keep a file if a link names it."""
        found = self._files.get(posixpath.normpath(info.name))
        if found is not None:
            found.append((number, part, info))

    def pictures(self) -> Iterator[tuple[str, tarfile.TarInfo | None]]:
        """Yield the name of each picture that was added, and the file with its bytes; None if the archive has none.

        Of several files of the name, a hard link is to the last one before the link, and a symbolic link to the last.
        Files in the archive of the link come before those in archives that are joined to it.
        """
        for link in self._wanted:
            files = self._files.get(self._without_links(link.target) or "", [])
            found = [
                (part == link.part, number, info)
                for number, part, info in files
                if number < link.number or not link.is_hard
            ]
            yield link.picture, max(found, key=lambda file: file[:2], default=(False, 0, None))[2]

    def _without_links(self, path: str) -> str | None:
        """Return the path without links in it; None if they lead in a circle."""
        for _ in range(MAX_CHAIN):
            folders = accumulate(path.split("/"), lambda folder, name: f"{folder}/{name}")
            link = next((folder for folder in folders if folder in self._targets), None)
            if link is None:
                return path
            path = posixpath.normpath(self._targets[link] + path[len(link) :])
        return None


def _target(link: tarfile.TarInfo) -> str:
    """Return the path that a link names. That of a symbolic link is relative to the folder of the link."""
    folder = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(folder, link.linkname))
