"""Names of exported files, which lie below the destination even if the data is hostile, and of exported columns."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...core.records import KEY_DIGITS
from ..reader import unused_name

# The longest name that common file systems accept, in bytes.
MAX_NAME_BYTES = 255
# On Windows, a backslash separates folders. Elsewhere a backslash is part of a name.
_SEPARATORS = re.compile(r"[/\\]" if os.name == "nt" else "/")
# A ".." that leads to the parent folder, also on Windows, where the files may be copied to.
_UP = re.compile(r"(?<![^\\])\.\.(?![^\\])")
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
# The column in which `datasets` puts the picture.
PICTURE = "image"
# `datasets` replaces such a column by the pictures that its texts name, in structs too.
_FILE_NAME = re.compile(r"(.*_)?file_names?", re.DOTALL)


def relative_name(filename: str, suffix: str) -> Path:
    """Return the relative path of a picture's file name, with ``suffix`` in place of its extension.

    Empty parts, ``.`` and a leading slash are dropped. ``..`` and unprintable characters become ``_``, and each part is
    truncated to ``MAX_NAME_BYTES``.
    """
    parts = [_UP.sub("_", _UNPRINTABLE.sub("_", part)) for part in _SEPARATORS.split(filename)]
    parts = [part for part in parts if part not in ("", ".")] or ["_"]
    if os.name == "nt":
        parts = [part.replace(":", "_") for part in parts]
    stem = os.path.splitext(parts[-1])[0]
    return Path(*map(_truncate, parts[:-1]), _truncate(stem, suffix) + suffix)


def is_named_like(path: Path, filename: str) -> bool:
    """Return whether a path and a picture's file name are equal without their extensions."""
    named = _SEPARATORS.sub("/", os.path.splitext(filename)[0])
    return path.with_suffix("").as_posix() == posixpath.normpath(named)


def key_name(key: str) -> str:
    """Return a picture's key for use in a file name. Anything but 20 hex digits is replaced by its digest."""
    return key if _KEY.fullmatch(key) else hashlib.sha256(key.encode(errors="replace")).hexdigest()[:KEY_DIGITS]


def rename_reserved(columns: Iterable[str]) -> dict[str, str]:
    """Return a new name for each of these columns that `datasets` reserves: ``file_name`` becomes ``file_name_2``."""
    columns = list(columns)
    taken = {column.casefold() for column in columns}
    return {
        column: unused_name(column, taken) for column in columns if column == PICTURE or _FILE_NAME.fullmatch(column)
    }


def rename_fields(value: Any) -> Any:
    """Return a JSON value in which no field of an object has a reserved name."""
    if isinstance(value, dict):
        taken = {str(name).casefold() for name in value}
        return {
            unused_name(name, taken) if _FILE_NAME.fullmatch(name) else name: rename_fields(inner)
            for name, inner in value.items()
        }
    return [rename_fields(inner) for inner in value] if isinstance(value, list) else value


def _truncate(part: str, suffix: str = "") -> str:
    encoded, room = os.fsencode(part), MAX_NAME_BYTES - len(suffix)
    return part if len(encoded) <= room else encoded[:room].decode(errors="ignore")
