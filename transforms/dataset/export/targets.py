"""Create the exported files on a disk or in a bucket. Nothing is overwritten, and a failed export leaves nothing."""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, Protocol, TextIO

from ....models.atomic_files import atomic_path
from ...io.object_stores.file_systems import FileSystems
from ...io.uris import LOCAL, scheme_of
from ...output.files import absolute, exists, glob_files, is_local, make_folder, open_atomic, remove, write_atomic

# Marks a bucket's folder during an export, because a bucket cannot rename a folder at the end. A kill leaves it.
UNFINISHED = "_UNFINISHED"
# Packages of the storage clients, whose exceptions have no common base class.
CLIENTS = ("apache_beam.", "botocore.", "google.", "azure.", "requests.", "urllib3.")

# What to do with a text file that exists with other content, and what was done.
Existing = Literal["keep", "add", "replace"]
Outcome = Literal["", "same", "kept", "added", "replaced"]


class Folder(Protocol):
    """A new folder on a disk or in a bucket."""

    def create(self, name: str) -> IO[bytes]:
        """Create a file below the folder and open it for writing. ``name`` may contain slashes."""

    def link(self, name: str, target: str) -> None:
        """Create a symbolic link below the folder to a local file.

        Raises:
            ValueError: if the folder is in a bucket.
        """


def resolve_destination(destination: str) -> str:
    """Return a local destination as an absolute path, and the URL of a bucket without a slash at its end.

    Raises:
        ValueError: if the destination has a scheme that cannot be written to, such as https.
        RuntimeError: if the client for the bucket is not installed.
    """
    if scheme_of(destination) == LOCAL:
        return absolute(destination)
    return absolute(destination.rstrip("/"))


@contextlib.contextmanager
def new_file(path: str) -> Iterator[TextIO]:
    """Open a UTF-8 text file under a temporary name, and rename the file when the block ends.

    If the block raises, the file is deleted.

    Raises:
        ValueError: if ``path`` already exists.
        OSError: if the file cannot be written.
    """
    with _translate_errors():
        if exists(path) or (not is_local(path) and glob_files(f"{path}/*")):
            raise ValueError(f"{path}: already exists; choose another name")
        with (
            open_atomic(path, f"{path}.{uuid.uuid4().hex[:8]}.part") as binary,
            io.TextIOWrapper(binary, encoding="utf-8", newline="\n") as file,
        ):
            yield file


@contextlib.contextmanager
def new_folder(folder: str) -> Iterator[Folder]:
    """Create a folder whose files are complete when the block ends. If the block raises, the files are deleted.

    On a disk, the folder has a temporary name until the block ends. In a bucket, the folder holds the file
    ``UNFINISHED`` until the block ends; after a kill, that file and others remain.

    Raises:
        ValueError: if the folder exists and is not empty.
        OSError: if the folder cannot be written.
    """
    with _translate_errors(), _local_folder(Path(folder)) if is_local(folder) else _bucket_folder(folder) as created:
        yield created


def write_text(folder: str, name: str, text: str, existing: Existing = "keep") -> Outcome:
    """Write lines of text to a UTF-8 file below a folder.

    A file that exists with other content is kept, gets the lines that it lacks at its end (``add``), or gets this text
    as its only content (``replace``). A file that is not UTF-8 is kept if ``existing`` is ``add``.

    Returns:
        "kept", "added" or "replaced" if a file with other content existed; "same" if a file had all lines already; an
        empty text if there was none.

    Raises:
        OSError: if the file cannot be read or written.
    """
    path, content = FileSystems.join(folder, *name.split("/")), text.encode()
    with _translate_errors():
        if _create_if_absent(path, content):
            return ""
        if is_local(path) and not os.path.isfile(path):
            return "kept"
        with FileSystems.open(path) as file:
            before = file.read()
        if before == content:
            return "same"
        if existing == "keep":
            return "kept"
        if existing == "add":
            if not _is_utf8(before):
                return "kept"
            known = set(before.removeprefix(BOM_UTF8).splitlines())
            lines = [line for line in content.splitlines(keepends=True) if line.rstrip(b"\n") not in known]
            if not lines:
                return "same"
            newline = b"" if before.endswith(b"\n") or not before else b"\n"
            content = before + newline + b"".join(lines)
        # Not named like the file, whose name may have the greatest length already.
        write_atomic(path, content, FileSystems.join(FileSystems.split(path)[0], f"{uuid.uuid4().hex}.part"))
    return "added" if existing == "add" else "replaced"


def write_once(folder: str, name: str, content: bytes) -> bool:
    """Write a file below a folder, unless there is one.

    Returns:
        False if a file with other content is there, which is kept; else True.

    Raises:
        OSError: if the file cannot be read or written.
    """
    path = FileSystems.join(folder, *name.split("/"))
    with _translate_errors():
        if exists(path):
            if is_local(path) and not os.path.isfile(path):
                return False
            with FileSystems.open(path) as file:
                return bool(file.read(len(content) + 1) == content)
        if is_local(path):
            make_folder(FileSystems.split(path)[0])
        # A part of a picture would be taken for another picture by the next export.
        write_atomic(path, content, FileSystems.join(FileSystems.split(path)[0], f"{uuid.uuid4().hex}.part"))
        return True


def _create_if_absent(path: str, content: bytes) -> bool:
    """Write a file if there is none of that name, and return whether it was written."""
    if is_local(path):
        make_folder(FileSystems.split(path)[0])
        with contextlib.suppress(FileExistsError), open(path, "xb") as file:
            file.write(content)
            return True
        return False
    if exists(path):
        return False
    with _create(path) as new:
        new.write(content)
    return True


class _LocalFolder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, name: str) -> IO[bytes]:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")

    def link(self, name: str, target: str) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


@contextlib.contextmanager
def _local_folder(folder: Path) -> Iterator[Folder]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: already exists and is not empty; choose another name")
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
    with atomic_path(folder, draft):
        draft.mkdir(parents=True)
        yield _LocalFolder(draft)
        if folder.exists():
            folder.rmdir()


class _BucketFolder:
    def __init__(self, root: str) -> None:
        self._root = root
        self.files: list[str] = []

    def create(self, name: str) -> IO[bytes]:
        self.files.append(f"{self._root}/{name}")
        make_folder(FileSystems.split(self.files[-1])[0])
        return _create(self.files[-1])

    def link(self, name: str, target: str) -> None:
        raise ValueError(f"--link: {self._root} is in a bucket, which has no links: export with --copy or to a disk")


@contextlib.contextmanager
def _bucket_folder(folder: str) -> Iterator[Folder]:
    marker = f"{folder}/{UNFINISHED}"
    if exists(marker):
        raise ValueError(
            f"{folder}: another export is writing to it, or was stopped halfway: delete {marker} and the other files "
            "there if no export is running, or choose another name"
        )
    if exists(folder) or glob_files(f"{folder}/**"):
        raise ValueError(f"{folder}: already exists and is not empty; choose another name")
    created = _BucketFolder(folder)
    created.create(UNFINISHED).close()
    try:
        yield created
    except BaseException:
        _try_to_remove(*reversed(created.files))
        raise
    remove(marker)


def _is_utf8(content: bytes) -> bool:
    """Return whether the content of a file is valid UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _create(path: str) -> IO[bytes]:
    file: IO[bytes] = FileSystems.create(path)
    return file


def _try_to_remove(*paths: str) -> None:
    # An error here would hide the error that made the export fail.
    with contextlib.suppress(OSError):
        remove(*paths)


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Translate the exceptions of Beam and of storage clients in this block into an OSError with their reasons."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(CLIENTS):
            raise
        reasons = (getattr(error, "exception_details", None) or {}).values()
        raise OSError("; ".join(dict.fromkeys(map(str, reasons))) or str(error)) from error
