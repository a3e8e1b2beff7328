"""Write files and folders of this machine so that readers see all of the new content or none of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_ATTEMPTS = 100


@contextlib.contextmanager
def atomic_path(path: str | Path, draft: str | Path | None = None, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, and rename it to ``path`` when the block ends.

    An existing file at ``path`` is replaced; an existing folder must be empty. Missing parents of ``path`` are made.
    If the block raises, what is at the yielded path is deleted and ``path`` stays as it was.

    Args:
        draft: the path to yield, on the same file system; by default a new name in the same folder.
        durable: wait until the content of a file and the new name are on the disk, so that a power loss keeps them.
    """
    target = Path(path)
    source = Path(draft) if draft else target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield source
        if durable:
            sync(source)
        _in_folder(target.parent, lambda: source.replace(target))
        if durable:
            # Another process may already have deleted the file, and its folder.
            with contextlib.suppress(FileNotFoundError):
                sync(target.parent)
    except BaseException:
        shutil.rmtree(source, ignore_errors=True)
        with contextlib.suppress(OSError):
            source.unlink()
        raise


def write_atomic(path: str | Path, content: bytes, draft: str | Path | None = None, *, durable: bool = True) -> None:
    """Write a file, or replace it, as ``atomic_path`` does. Missing parents of ``path`` and ``draft`` are made.

    Raises:
        OSError: if the file cannot be written.
    """
    with atomic_path(path, draft, durable=durable) as unfinished:
        _in_folder(unfinished.parent, lambda: unfinished.write_bytes(content))


def sync(path: str | Path) -> None:
    """Write a file's content, or the names in a folder, to the disk, and return when they are there (fsync)."""
    is_file = os.path.isfile(path)
    # Windows can open no folder, and can sync no file that is open for reading only.
    if is_file or hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDWR if is_file else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _in_folder(folder: Path, action: Callable[[], object]) -> None:
    """Make a folder and call ``action``. Repeat both, ``MAX_ATTEMPTS`` times at most, if the folder is deleted."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            action()
            return
        # mkdir raises FileExistsError if the folder is deleted between its two looks.
        except (FileNotFoundError, FileExistsError):
            if attempt == MAX_ATTEMPTS:
                raise
