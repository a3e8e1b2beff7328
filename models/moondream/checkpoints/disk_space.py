"""Room on a disk for what is about to be fetched."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Refuse to begin what can't be finished.

    Raises:
        RuntimeError: the disk of ``folder``, which need not be there yet, has no room for ``needed`` bytes.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise RuntimeError(
            f"the weights take {needed / 1e9:.1f} GB, and the disk of {folder} has {free / 1e9:.1f} GB left; free some"
        )


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that a disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
