"""What a pattern matches in a bucket: one level first, so that the folders below it can be listed side by side."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..core.records import ImageRef
from ..io.object_stores.base import Stores
from ..io.retry import RetryPolicy
from ..io.uris import scheme_of, split_bucket

# Wildcards pass over names that begin with a dot, as in a shell.
_VISIBLE = r"(?!\.)"
# However many: in a bucket one slash may follow another, and the folder between them has no name.
_FOLDERS = rf"(?:{_VISIBLE}[^/]*/)*"


class PendingFolder(NamedTuple):
    """A folder still to be listed, by the pattern that led to it: ``wanted`` of what lies below ``root``."""

    uri: str
    root: str
    wanted: str


class GlobLister(NamedTuple):
    """How buckets are asked: by which clients, how patiently, and which extensions a picture has."""

    stores: Stores
    retry_policy: RetryPolicy
    extensions: frozenset[str]

    def top(self, pattern: str) -> Iterator[ImageRef | PendingFolder]:
        """The first level that the pattern does not fix: pictures, and folders that may hold more.

        An object of exactly that name is that object, whatever brackets it has. Without wildcards it is a folder, of
        which files with an image's extension are wanted.
        """
        if not all(split_bucket(pattern)) and glob.has_magic(pattern):
            raise ValueError(f"{pattern}: a bucket's own name can't be a pattern")
        if not pattern.endswith("/") and self._exists(pattern):
            yield ImageRef(pattern, posixpath.basename(pattern))
            return
        root, parts = split_glob(pattern)
        wanted = _regex(parts) if parts else _walk(self.extensions)
        match = re.compile(wanted, re.DOTALL).fullmatch
        for entry in self.stores.entries(scheme_of(root), root + _literal(parts), False, self.retry_policy):
            name = entry.uri[len(root) :]
            if not entry.is_folder:
                if match(name) and not name.endswith("/"):
                    yield ImageRef(entry.uri, name)
            elif _leads_on(name.rstrip("/"), parts):
                yield PendingFolder(entry.uri, root, wanted)

    def below(self, folder: PendingFolder) -> Iterator[ImageRef]:
        """All that is wanted of a folder, however deep it lies."""
        match = re.compile(folder.wanted, re.DOTALL).fullmatch
        for entry in self.stores.entries(scheme_of(folder.uri), folder.uri, True, self.retry_policy):
            name = entry.uri[len(folder.root) :]
            # A name that ends with a slash is what consoles make of an empty folder.
            if match(name) and not name.endswith("/"):
                yield ImageRef(entry.uri, name)

    def _exists(self, uri: str) -> bool:
        if not split_bucket(uri)[1]:
            return False
        # In the order of names the one that is nothing but the prefix comes first.
        first = next(self.stores.entries(scheme_of(uri), uri, True, self.retry_policy), None)
        return first is not None and first.uri == uri


def split_glob(pattern: str) -> tuple[str, list[str]]:
    """The folder, with its slash, that has no wildcard in it; and the parts of what follows, none for a folder."""
    if not glob.has_magic(pattern):
        return pattern.rstrip("/") + "/", []
    scheme, _, rest = pattern.partition("://")
    parts = rest.split("/")
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return f"{scheme}://" + "".join(f"{part}/" for part in parts[:fixed]), parts[fixed:]


def _literal(parts: list[str]) -> str:
    """How all names that a glob matches begin: a store finds them without showing others."""
    return re.split(r"[*?[]", parts[0], maxsplit=1)[0] if parts else ""


def _leads_on(name: str, parts: list[str]) -> bool:
    """Whether something below a folder of this name may be wanted."""
    if not parts or parts[0] == "**":
        return not name.startswith(".")
    return len(parts) > 1 and re.fullmatch(_part(parts[0]), name, re.DOTALL) is not None


def _walk(extensions: frozenset[str]) -> str:
    endings = "|".join(re.escape(extension) for extension in sorted(extensions))
    return rf"{_FOLDERS}{_VISIBLE}[^/]*(?i:{endings})"


def _regex(parts: list[str]) -> str:
    """A glob as a regular expression: ``**`` is any number of folders, and at the end all that is in them."""
    *folders, last = parts
    regex = "".join(_FOLDERS if part == "**" else f"{_part(part)}/" for part in folders)
    return regex + (rf"{_FOLDERS}{_VISIBLE}[^/]+" if last == "**" else _part(last))


def _part(part: str) -> str:
    """One name of a glob."""
    regex = _VISIBLE if part[:1] in ("*", "?", "[") else ""
    for piece in re.findall(r"\*+|\?|\[!?\]?[^\]]*\]|.", part, re.DOTALL):
        if piece[0] == "*":
            regex += "[^/]*"
        elif piece == "?":
            regex += "[^/]"
        elif piece[0] == "[" and len(piece) > 2:
            inside = piece[1:-1].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
            regex += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
        else:
            regex += re.escape(piece)
    return regex
