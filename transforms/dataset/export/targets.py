"""Where exported files are written: a disk or a bucket, in place of nothing, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, TextIO

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from ....models.atomic_files import atomic_path
from ...io.uris import LOCAL, scheme_of
from ...output.files import absolute, exists, glob_files, is_local, make_folder, open_atomic, remove

# While an export into a bucket is at work, and where it was killed: there no folder gets its name at the end.
UNFINISHED = "_UNFINISHED"
# Whose errors have no class in common.
CLIENTS = ("apache_beam.", "botocore.", "google.", "azure.", "requests.", "urllib3.")


class Folder(Protocol):
    """A new folder; its files have names below it, with slashes."""

    def create(self, name: str) -> IO[bytes]:
        """A new file, open for writing."""


def place(destination: str) -> str:
    """A destination as an absolute path, or as the URL of a bucket.

    Raises:
        ValueError: it is none, or can't be written to.
        RuntimeError: the client for it is not installed.
    """
    if scheme_of(destination) == LOCAL:
        return absolute(destination)
    return absolute(destination.rstrip("/"))


@contextlib.contextmanager
def new_file(path: str) -> Iterator[TextIO]:
    """A text file that gets its name when the block ends; where that fails, nothing is left.

    Raises:
        ValueError: there is something of that name.
        OSError: it can't be written.
    """
    with _told():
        if exists(path) or (not is_local(path) and glob_files(f"{path}/*")):
            raise ValueError(f"{path}: is there already; choose another name")
        with (
            open_atomic(path, f"{path}.{uuid.uuid4().hex[:8]}.part") as binary,
            io.TextIOWrapper(binary, encoding="utf-8", newline="\n") as file,
        ):
            yield file


@contextlib.contextmanager
def new_folder(folder: str) -> Iterator[Folder]:
    """A folder that is there when the block ends; where that fails, nothing is left.

    On a disk it gets its name then. In a bucket ``UNFINISHED`` lies in it until then, and where the process was killed.

    Raises:
        ValueError: there is something of that name.
        OSError: it can't be written.
    """
    with _told(), _local(Path(folder)) if is_local(folder) else _far(folder) as made:
        yield made


def write_new(folder: str, name: str, text: str) -> bool:
    """Write a text file below a folder, unless there is one of that name; whether it has that text now.

    Raises:
        OSError: it can't be written.
    """
    with _told():
        path = FileSystems.join(folder, *name.split("/"))
        if is_local(folder):
            make_folder(FileSystems.split(path)[0])
            with contextlib.suppress(FileExistsError), open(path, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                return True
            return os.path.isfile(path) and Path(path).read_bytes() == text.encode()
        if exists(path):
            with FileSystems.open(path, compression_type="uncompressed") as there:
                return bool(there.read() == text.encode())
        with _create(path) as new:
            new.write(text.encode())
        return True


class _LocalFolder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, name: str) -> IO[bytes]:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")


@contextlib.contextmanager
def _local(folder: Path) -> Iterator[Folder]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already and not empty; choose another name")
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
    with atomic_path(folder, draft):
        draft.mkdir(parents=True)
        yield _LocalFolder(draft)
        if folder.exists():
            folder.rmdir()


class _FarFolder:
    def __init__(self, root: str) -> None:
        self._root = root
        self.made: list[str] = []

    def create(self, name: str) -> IO[bytes]:
        self.made.append(f"{self._root}/{name}")
        make_folder(FileSystems.split(self.made[-1])[0])
        return _create(self.made[-1])


@contextlib.contextmanager
def _far(folder: str) -> Iterator[Folder]:
    mark = f"{folder}/{UNFINISHED}"
    if exists(mark):
        raise ValueError(
            f"{folder}: an export into it is at work, or was ended halfway: remove it, or choose another name"
        )
    if exists(folder) or glob_files(f"{folder}/**"):
        raise ValueError(f"{folder}: is there already and not empty; choose another name")
    made = _FarFolder(folder)
    made.create(UNFINISHED).close()
    try:
        yield made
    except BaseException:
        _try_to_remove(*reversed(made.made))
        raise
    remove(mark)


def _create(path: str) -> IO[bytes]:
    file: IO[bytes] = FileSystems.create(path, compression_type="uncompressed")
    return file


def _try_to_remove(*paths: str) -> None:
    # What went wrong before is what is told.
    with contextlib.suppress(OSError, BeamIOError):
        remove(*paths)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """The errors of Beam and of its clients as errors of a file system, with their reasons."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(CLIENTS):
            raise
        reasons = (getattr(error, "exception_details", None) or {}).values()
        raise OSError("; ".join(dict.fromkeys(map(str, reasons))) or str(error)) from error
