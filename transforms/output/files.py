"""Write, rename, list and delete the files of an output, which is a local folder or a bucket.

Local files are written with Python and all others with Apache Beam's file systems. Paths are absolute, or URLs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from ...models import atomic_files
from ..io.object_stores.base import require_client
from ..io.object_stores.file_systems import FileSystems
from ..io.uris import HUB, LOCAL, OBJECT_STORE_SCHEMES, absolute_path, escape_non_utf8, is_utf8, scheme_of
from .layout import temporary_folder


def move(source: str, target: str) -> None:
    """Rename a file in one step, and on a local disk wait until its content and its new name are on the disk."""
    local = is_local(target)
    if local:
        atomic_files.sync(source)
    FileSystems.rename([source], [target])
    if local:
        atomic_files.sync(os.path.dirname(target))


def rename_if_needed(source: str, target: str) -> None:
    """Rename a file, unless another process has renamed it already or does so at the same moment.

    Raises:
        Exception: if the rename fails and ``source`` still exists, or ``target`` does not exist.
    """
    try:
        move(source, target)
    except Exception:
        if exists(source) or not exists(target):
            raise


def remove(*paths: str) -> None:
    """Delete those of these files that exist. Another process may delete them at the same moment."""
    if found := glob_files(*paths):
        try:
            FileSystems.delete(found)
        except OSError:
            if glob_files(*found):
                raise


@contextlib.contextmanager
def open_atomic(path: str, draft: str) -> Iterator[IO[bytes]]:
    """Open a file for writing whose final name is ``path`` and whose name until the block ends is ``draft``.

    An existing file is replaced when the block ends. If the block raises, the draft is deleted.
    """
    for each in (path, draft):
        make_folder(FileSystems.split(each)[0])
    if is_local(path):
        with atomic_files.atomic_path(path, draft), open(draft, "wb") as local:
            yield local
        return
    try:
        with FileSystems.create(draft) as file:
            yield file
        move(draft, path)
    except BaseException:
        # The first error is the one to report.
        with contextlib.suppress(OSError):
            remove(draft)
        raise


def write_atomic(path: str, content: bytes, draft: str) -> None:
    """Write a file, or replace it, so that readers see all of the content or none: first ``draft``, then a rename."""
    if is_local(path):
        atomic_files.write_atomic(path, content, draft)
    else:
        with open_atomic(path, draft) as file:
            file.write(content)


def is_local(output: str) -> bool:
    """Return whether an output is a path of this machine. Beam takes a drive letter for a path too."""
    return FileSystems.get_scheme(output) is None


def absolute(output: str) -> str:
    """Return a local path as an absolute path, and a URL of a bucket unchanged.

    Raises:
        ValueError: if an output cannot be there.
        RuntimeError: if the client for this kind of bucket is not installed.
    """
    scheme = scheme_of(output)
    if scheme == LOCAL:
        return os.path.normpath(absolute_path(output))
    if scheme == "az":
        raise ValueError(f"output {output}: name the account too, as azfs://ACCOUNT/{output[len('az://') :]}")
    if scheme == HUB:
        cure = "give a folder, and upload it with moondream-beam push"
        raise ValueError(f"output {output}: a dataset of the Hugging Face hub is read only; {cure}")
    if scheme not in OBJECT_STORE_SCHEMES:
        raise ValueError(f"output {output}: give a folder, or a URL that begins with s3://, gs:// or azfs://")
    require_client(scheme)
    return output


def check_output_path(output: str) -> str:
    """Return the absolute path or URL of an output that can be written to.

    Raises:
        ValueError: if the path contains ``*``, ``?`` or ``[``, is not UTF-8, is on HDFS, or is a file, or if Beam
            cannot write there.
        RuntimeError: if the client for this kind of bucket is not installed.
    """
    path = absolute(output)
    # Beam would take the path for a pattern and find none of the published rows: all images would be annotated again.
    if set(path) & set("*?["):
        raise ValueError(f"output {path}: choose a name without *, ? and [, which mean a pattern")
    if not is_utf8(path):
        raise ValueError(
            f"output {escape_non_utf8(path)}: choose a name in UTF-8, because some readers accept no other"
        )
    if scheme_of(path) == "hdfs":
        # On HDFS Beam refuses to replace a file, so a run could not renew its lock.
        raise ValueError(f"output {path}: HDFS is read only; give a folder, or s3://, gs:// or azfs://")
    if is_local(path) and os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"output {output}: this is a file; choose a folder, new or not")
    return path


def remove_temporary_folder(output: str) -> None:
    """Delete ``_temporary`` of a local output if the folder is empty."""
    if is_local(output):
        with contextlib.suppress(OSError):
            os.rmdir(temporary_folder(output))


def make_folder(path: str) -> None:
    """Make a folder and its parents, unless they exist. In a bucket this does nothing."""
    if scheme_of(path) in (LOCAL, "hdfs") and not exists(path):
        # Beam raises if another worker makes the folder at the same moment.
        with contextlib.suppress(OSError):
            FileSystems.mkdirs(path)


def exists(path: str) -> bool:
    """Return whether there is a file or a folder of this name."""
    try:
        return FileSystems.exists(path)
    except OSError as error:
        # On Azure, Beam raises where nothing is found.
        reasons = (getattr(error, "exception_details", None) or {}).values()
        if any(getattr(reason, "code", None) == 404 for reason in reasons):
            return False
        raise


def glob_files(*patterns: str) -> list[str]:
    """Return the paths of all files that match these patterns. A pattern without ``*`` is a path."""
    globs = [pattern for pattern in patterns if "*" in pattern]
    # On Azure, Beam raises where a name without wildcards matches nothing.
    named = [path for path in patterns if path not in globs and exists(path)]
    return named + FileSystems.glob(globs)
