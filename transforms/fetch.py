"""The bytes of a picture, from where it lies. Local files so far."""

from __future__ import annotations

from pathlib import Path

# Larger files are refused: no photograph needs more, and many of them are open at once.
MAX_FILE_BYTES = 256 << 20


def fetch(uri: str) -> bytes:
    """The content of the file at this path.

    Raises:
        OSError: it can't be read.
        ValueError: it is a named pipe, empty or larger than ``MAX_FILE_BYTES``.
    """
    path = Path(uri)
    if path.is_fifo():
        # To open it would be to wait for somebody to write into it.
        raise ValueError("this is a named pipe")
    with path.open("rb") as file:
        # Read, not trusted to stat: a pipe or a growing file has no size to ask for.
        content = file.read(MAX_FILE_BYTES + 1)
    if not content:
        raise ValueError("the file is empty")
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    return content
