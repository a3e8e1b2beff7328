"""The file systems of outputs: this machine's by Python, and all others by Apache Beam.

Beam is imported at the first path in a bucket. A command that only reads a local output therefore starts without Beam,
which takes a second and more to import.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache
from typing import Any

_SCHEME = re.compile(r"([a-zA-Z][-a-zA-Z0-9+.]*)://")


@cache
def beam_file_systems() -> Any:
    """Return Beam's class ``FileSystems``, which knows Beam's options for credentials and endpoints."""
    from apache_beam.io.filesystems import FileSystems as BeamFileSystems

    # The client of S3 is an extra.
    with contextlib.suppress(ModuleNotFoundError):
        from . import beam_s3

        beam_s3.share_clients()
    return BeamFileSystems


class FileSystems:
    """The methods of Beam's ``FileSystems`` that outputs need. Paths are local, or URLs that Beam can write to.

    Files are never compressed or decompressed. Errors are OSErrors; for a path in a bucket they are those of
    Beam, such as BeamIOError, and of its clients.
    """

    @staticmethod
    def get_scheme(path: str) -> str | None:
        """Return the scheme of a URL, such as ``s3``, or None for a local path."""
        match = _SCHEME.match(path)
        return match[1] if match else None

    @staticmethod
    def join(base: str, *names: str) -> str:
        """Return a path below ``base``."""
        joined: str = _of(base).join(base, *names) if _of(base) else os.path.join(base, *names)
        return joined

    @staticmethod
    def split(path: str) -> tuple[str, str]:
        """Return the folder of a path, absolute if it is local, and the last part of the path."""
        parts: tuple[str, str] = _of(path).split(path) if _of(path) else os.path.split(os.path.abspath(path))
        return parts

    @staticmethod
    def exists(path: str) -> bool:
        """Return whether there is a file or a folder of this name."""
        return bool(_of(path).exists(path) if _of(path) else os.path.exists(path))

    @staticmethod
    def last_updated(path: str) -> float:
        """Return when a file was written last, in seconds since 1970, by the clock of its file system."""
        return float(_of(path).last_updated(path) if _of(path) else os.path.getmtime(path))

    @staticmethod
    def open(path: str) -> Any:
        """Open a file for reading bytes."""
        return _of(path).open(path, compression_type="uncompressed") if _of(path) else open(path, "rb")

    @staticmethod
    def create(path: str) -> Any:
        """Open a new file for writing bytes, and make its folders."""
        if _of(path):
            return _of(path).create(path, compression_type="uncompressed")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")  # noqa: SIM115

    @staticmethod
    def mkdirs(path: str) -> None:
        """Make a folder and its parents.

        Raises:
            OSError: if the folder exists.
        """
        if _of(path):
            _of(path).mkdirs(path)
        else:
            os.makedirs(path)

    @staticmethod
    def rename(sources: Sequence[str], targets: Sequence[str]) -> None:
        """Rename each file to the target of the same place in the list. A file at a local target is replaced."""
        if sources and _of(sources[0]):
            _of(sources[0]).rename(list(sources), list(targets))
            return
        for source, target in zip(sources, targets, strict=True):
            os.rename(source, target)

    @staticmethod
    def delete(paths: Sequence[str]) -> None:
        """Delete files and folders. The first error is raised after all paths have been tried."""
        if paths and _of(paths[0]):
            _of(paths[0]).delete(list(paths))
            return
        errors = []
        for path in paths:
            try:
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.remove(path)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    @staticmethod
    def glob(patterns: Sequence[str]) -> list[str]:
        """Return the paths of all files that match these patterns. In a local one, ``*`` is in the last part only."""
        found: list[str] = []
        for pattern in patterns:
            if _of(pattern):
                (matched,) = _of(pattern).match([pattern])
                found += [metadata.path for metadata in matched.metadata_list]
            else:
                found += _glob_local(pattern)
        return found


def _of(path: str) -> Any:
    """Return Beam's class for a URL, and None for a local path."""
    return None if FileSystems.get_scheme(path) is None else beam_file_systems()


def _glob_local(pattern: str) -> list[str]:
    folder, name = os.path.split(pattern)
    wanted = re.compile(".*".join(map(re.escape, name.split("*"))), re.DOTALL)
    try:
        with os.scandir(folder or ".") as entries:
            return [
                os.path.join(folder, entry.name)
                for entry in entries
                if wanted.fullmatch(entry.name) and entry.is_file()
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
