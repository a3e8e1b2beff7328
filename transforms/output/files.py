"""The files of an output: where they lie, how they get their names, and what is there; on a disk or in a bucket."""

from __future__ import annotations

import contextlib
import os
import uuid

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from ..io.object_stores.base import require_client
from ..io.uris import LOCAL, OBJECT_STORE_SCHEMES, escape_non_utf8, is_utf8, path_of, scheme_of


def move(source: str, target: str) -> None:
    """Give a file its final name, in one step. On a disk it is safe there against a loss of power too."""
    local = is_local(target)
    if local:
        _sync(source)
    FileSystems.rename([source], [target])
    if local:
        _sync(os.path.dirname(target))


def rename_if_needed(source: str, target: str) -> None:
    """Give a file its final name, unless another process has or does so in the same moment."""
    try:
        move(source, target)
    except Exception:
        if exists(source) or not exists(target):
            raise


def remove(*paths: str) -> None:
    """Remove those of these files that are there."""
    if there := glob_files(*paths):
        FileSystems.delete(there)


def write_atomic(output: str, path: str, content: bytes) -> None:
    """Write a file below the output that is seen whole or not at all, in place of what was there."""
    make_folder(temporary_folder(output))
    make_folder(FileSystems.split(path)[0])
    draft = FileSystems.join(temporary_folder(output), f"{FileSystems.split(path)[1]}-{uuid.uuid4().hex}")
    with FileSystems.create(draft) as file:
        file.write(content)
    move(draft, path)


def is_local(output: str) -> bool:
    """Whether an output is a path of this machine. A drive letter is no scheme: Beam knows."""
    return FileSystems.get_scheme(output) is None


def absolute(output: str) -> str:
    """An output that means the same in whatever folder a worker runs: a local path made absolute, a URL as it is.

    Raises:
        ValueError: Beam can't write there.
        RuntimeError: the client for it is not installed.
    """
    scheme = scheme_of(output)
    if scheme == LOCAL:
        return os.path.abspath(path_of(output))
    if scheme == "az":
        raise ValueError(f"output {output}: name the account too, as azfs://ACCOUNT/{output[len('az://') :]}")
    if scheme not in OBJECT_STORE_SCHEMES:
        raise ValueError(f"output {output}: rows go to a folder, or to s3://, gs:// or azfs://")
    require_client(scheme)
    return output


def check_output_path(output: str) -> str:
    """An output that can be written to, anchored.

    Raises:
        ValueError: its name, or that of a folder around it, is none that readers take; it is a file, or where Beam
            can't write.
        RuntimeError: the client for it is not installed.
    """
    place = absolute(output)
    # Nothing would be found there, and all be asked again.
    if set(place) & set("*?["):
        raise ValueError(f"output {place}: choose a name without *, ? and [, which mean a pattern")
    if not is_utf8(place):
        raise ValueError(f"output {escape_non_utf8(place)}: choose a name in UTF-8, as not all readers take others")
    if scheme_of(place) == "hdfs":
        # Through Beam, which writes no file there that is there already: no run could show that it is alive.
        raise ValueError(f"output {place}: HDFS is read only; give a folder, or s3://, gs:// or azfs://")
    if is_local(place) and os.path.exists(place) and not os.path.isdir(place):
        raise ValueError(f"output {output}: this is a file; choose a folder, new or not")
    return place


def temporary_folder(output: str) -> str:
    """Where files lie before they are published, on the same file system as the output."""
    return FileSystems.join(output, "_temporary")


def remove_temporary_folder(output: str) -> None:
    """Remove ``_temporary`` of a local output, if nobody has anything in it."""
    if is_local(output):
        with contextlib.suppress(OSError):
            os.rmdir(temporary_folder(output))


def make_folder(path: str) -> None:
    """Make a folder and those above it; that it is there already is no error."""
    # Buckets have no folders. Two workers may do so at the same moment, and Beam's mkdirs refuses what exists.
    if scheme_of(path) in (LOCAL, "hdfs") and not exists(path):
        with contextlib.suppress(OSError):
            FileSystems.mkdirs(path)


def _sync(path: str) -> None:
    is_file = os.path.isfile(path)
    # Windows can't open a folder, nor sync what is only read.
    if is_file or hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDWR if is_file else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def kind_of(path: str) -> str:
    """The folder that a published file lies in: ``data`` or ``errors``."""
    return FileSystems.split(FileSystems.split(path)[0].rstrip("/\\"))[1]


def exists(path: str) -> bool:
    """Whether there is a file, or a folder, of this name."""
    try:
        return FileSystems.exists(path)
    except BeamIOError as error:
        # In Azure, Beam raises where there is none.
        if any(getattr(reason, "code", None) == 404 for reason in (error.exception_details or {}).values()):
            return False
        raise


def glob_files(*patterns: str) -> list[str]:
    """The files that these patterns match."""
    globs = [pattern for pattern in patterns if "*" in pattern]
    # In Azure, Beam raises where a name without wildcards matches nothing.
    named = [path for path in patterns if path not in globs and exists(path)]
    matches = FileSystems.match(globs) if globs else []
    return named + [metadata.path for result in matches for metadata in result.metadata_list]
