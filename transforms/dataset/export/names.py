"""Names of exported files. They always lie below the destination, even if the data holds hostile names."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from pathlib import Path

from ...core.records import KEY_DIGITS

# The longest name that common file systems accept, in bytes.
MAX_NAME_BYTES = 255
# On Windows, a backslash separates folders. Elsewhere a backslash is part of a name.
_SEPARATORS = re.compile(r"[/\\]" if os.name == "nt" else "/")
# A ".." that leads to the parent folder, also on Windows, where the files may be copied to.
_UP = re.compile(r"(?<![^\\])\.\.(?![^\\])")
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


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


def _truncate(part: str, suffix: str = "") -> str:
    encoded, room = os.fsencode(part), MAX_NAME_BYTES - len(suffix)
    return part if len(encoded) <= room else encoded[:room].decode(errors="ignore")
