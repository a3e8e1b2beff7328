"""Where exported files go: below their destination whatever the data says, and in place of nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..records import KEY_DIGITS
from ..uris import LOCAL, path_of, scheme_of

NAME_BYTES = 200
_SEPARATORS = re.compile(r"[/\\]+")
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


def place(destination: str) -> Path:
    """A destination as a path of this machine.

    Raises:
        ValueError: it is none.
    """
    if scheme_of(destination) != LOCAL:
        raise ValueError(f"{destination}: exports go to a folder of this machine; copy it from there")
    return Path(path_of(destination)).absolute()


def relative_name(filename: str, suffix: str) -> Path:
    """A relative path like a picture's name, with another suffix. It leads out of no folder."""
    parts = [_UNPRINTABLE.sub("_", part) for part in _SEPARATORS.split(filename)]
    parts = ["_" if part == ".." else _shortened(part) for part in parts if part not in ("", ".")] or ["_"]
    if os.name == "nt":
        parts = [part.replace(":", "_") for part in parts]
    return Path(*parts[:-1], os.path.splitext(parts[-1])[0] + suffix)


def key_name(key: str) -> str:
    """A picture's key as part of a file's name. One that is no key of ours may hold anything: its digest stands in."""
    return key if _KEY.fullmatch(key) else hashlib.sha256(key.encode(errors="replace")).hexdigest()[:KEY_DIGITS]


def _shortened(part: str) -> str:
    encoded = part.encode(errors="replace")
    return part if len(encoded) <= NAME_BYTES else encoded[:NAME_BYTES].decode(errors="ignore")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends; where that fails, nothing is left.

    Raises:
        ValueError: there is something of that name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already and not empty; choose another name")
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.part")
    draft.mkdir(parents=True)
    try:
        yield draft
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name when the block ends; where that fails, nothing is left.

    Raises:
        ValueError: there is something of that name.
    """
    if path.exists():
        raise ValueError(f"{path}: is there already; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with draft.open("x", encoding="utf-8") as file:
            yield file
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
