"""What exported files are called: something below their destination, whatever the data says."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from pathlib import Path

from ...core.records import KEY_DIGITS

# What a disk takes.
NAME_BYTES = 255
# Elsewhere a backslash is a letter like others, and the picture's name has it.
_SEPARATORS = re.compile(r"[/\\]" if os.name == "nt" else "/")
# Up a folder, here or where the files may be taken to.
_UP = re.compile(r"(?<![^\\])\.\.(?![^\\])")
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


def relative_name(filename: str, suffix: str) -> Path:
    """A relative path like a picture's name, with another suffix. It leads out of no folder."""
    parts = [_UP.sub("_", _UNPRINTABLE.sub("_", part)) for part in _SEPARATORS.split(filename)]
    parts = [part for part in parts if part not in ("", ".")] or ["_"]
    if os.name == "nt":
        parts = [part.replace(":", "_") for part in parts]
    stem = os.path.splitext(parts[-1])[0]
    return Path(*map(_shortened, parts[:-1]), _shortened(stem, suffix) + suffix)


def is_named_like(path: Path, filename: str) -> bool:
    """Whether a file has a picture's name but for their extensions, so that it is found beside it."""
    named = _SEPARATORS.sub("/", os.path.splitext(filename)[0])
    return path.with_suffix("").as_posix() == posixpath.normpath(named)


def key_name(key: str) -> str:
    """A picture's key as part of a file's name. One that is no key of ours may hold anything: its digest stands in."""
    return key if _KEY.fullmatch(key) else hashlib.sha256(key.encode(errors="replace")).hexdigest()[:KEY_DIGITS]


def _shortened(part: str, suffix: str = "") -> str:
    encoded, room = os.fsencode(part), NAME_BYTES - len(suffix)
    return part if len(encoded) <= room else encoded[:room].decode(errors="ignore")
