"""What exported files are called: something below their destination, whatever the data says."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ..records import KEY_DIGITS

NAME_BYTES = 200
_SEPARATORS = re.compile(r"[/\\]+")
_KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


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
