"""Tar files of pictures and their JSON, each of them of a limited size."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ..targets import Folder

# Limits of one tar file. Training tools read a tar file from front to back and shuffle whole files.
MAX_TAR_PICTURES, MAX_TAR_BYTES = 10_000, 1 << 30


class Tars:
    """Tar files in a folder, ``START000000.tar`` and so on: a new one begins when the last one has reached a limit."""

    def __init__(self, folder: Folder, start: str) -> None:
        self._folder, self._start, self._stack = folder, start, ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._number = self._pictures = self._bytes = 0

    def __enter__(self) -> Tars:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, members: Mapping[str, bytes]) -> None:
        """Add the files of one picture, by name."""
        if self._tar is None or self._pictures % MAX_TAR_PICTURES == 0 or self._bytes >= MAX_TAR_BYTES:
            self._stack.close()
            file = self._stack.enter_context(self._folder.create(f"{self._start}{self._number:06d}.tar"))
            # The stack closes it.
            tar = tarfile.open(fileobj=file, mode="w|")  # noqa: SIM115
            self._tar, self._bytes = self._stack.enter_context(tar), 0
            self._number += 1
        self._pictures += 1
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
            self._bytes += len(content)
