"""Checks of free disk space for a download."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path


def check_disk_space(folder: Path, needed: int) -> None:
    """Check that ``needed`` bytes fit on the disk of a folder, which need not exist yet.

    Raises:
        RuntimeError: if the disk has less free space.
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RuntimeError(
            f"the weights need {needed / 1e9:.1f} GB and the disk of {folder} has {free / 1e9:.1f} GB left; "
            "free disk space there and run the same command again"
        )


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error, or any error in its chain of causes, is an OSError ENOSPC or EDQUOT."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
