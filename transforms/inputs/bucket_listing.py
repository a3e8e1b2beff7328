"""List the objects in a bucket that match a folder or a glob.

The first level is listed in one process; the folders found there are then listed in parallel by the workers.
"""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..core.records import FILES_ENDING, WITHOUT_ENDING, ImageRef, Skipped
from ..io.containers.location import is_archive
from ..io.object_stores.base import Stores
from ..io.retry import RetryPolicy
from ..io.uris import scheme_of, split_bucket

# As in a shell, wildcards do not match names that begin with a dot.
_VISIBLE = r"(?!\.)"
TAR_IN_FOLDER = "tar archives in folders, which are read where a pattern names them"
# Any number of folders. In a bucket a folder may have an empty name: a key may have two slashes in a row.
_FOLDERS = rf"(?:{_VISIBLE}[^/]*/)*"


class PendingFolder(NamedTuple):
    """A folder that is still to be listed.

    Names relative to ``root`` that ``regex`` matches as a whole are images. For a local folder ``regex`` is empty.
    """

    uri: str
    root: str
    regex: str


class OtherFiles:
    """Counts what is skipped because it is no image, by folder and ending, or by folder and another kind."""

    def __init__(self) -> None:
        # (folder, ending, kind) -> how many there are, and the first name.
        self._found: dict[tuple[str, str, str], tuple[int, str]] = {}

    def add(self, folder: str, name: str, kind: str = "") -> None:
        """Count one thing in a folder or archive. ``name`` is relative to the listed folder.

        Without a ``kind`` the thing is a file, and the ending of its name is its kind. Archives are of one kind.
        """
        kind = kind or (TAR_IN_FOLDER if is_archive(name) else "")
        ending = "" if kind else posixpath.splitext(name)[1].lower()
        key = folder, ending, kind or (f"{FILES_ENDING}{ending}" if ending else WITHOUT_ENDING)
        count, first = self._found.get(key, (0, name))
        self._found[key] = count + 1, min(name, first)

    def refs(self) -> Iterator[ImageRef]:
        """Yield one reference with ``skipped`` for each folder and kind, named after its first thing."""
        for (folder, ending, kind), (count, first) in self._found.items():
            yield ImageRef(f"{folder}/*{ending}", first, skipped=Skipped(kind, count))


class GlobLister(NamedTuple):
    """Lists patterns in buckets. ``extensions``, in lower case, are those of the files listed for a plain folder."""

    stores: Stores
    retry_policy: RetryPolicy
    extensions: frozenset[str]

    def list_first_level(self, pattern: str) -> Iterator[ImageRef | PendingFolder]:
        """Yield the matches in the first folder that has a wildcard, and its subfolders that may hold more.

        If an object of exactly this name exists, it is the only match, even if the name has wildcards. A pattern
        without wildcards is a folder: its files with one of ``extensions`` match, however deep.

        Raises:
            ValueError: if the name of the bucket has wildcards.
            OSError: if the bucket can't be listed.
        """
        if not all(split_bucket(pattern)) and glob.has_magic(pattern):
            raise ValueError(f"{pattern}: a bucket's own name can't be a pattern: name the bucket in full")
        if not pattern.endswith("/") and self.exists(pattern):
            yield ImageRef(pattern, posixpath.basename(pattern))
            return
        root, parts = split_glob(pattern)
        regex = _glob_regex(parts) if parts else _folder_regex(self.extensions)
        match, others = re.compile(regex, re.DOTALL).fullmatch, OtherFiles()
        for entry in self.stores.entries(scheme_of(root), root + _literal_prefix(parts), False, self.retry_policy):
            name = entry.uri[len(root) :]
            if entry.is_folder:
                if _may_match_below(name.rstrip("/"), parts):
                    yield PendingFolder(entry.uri, root, regex)
            elif match(name) and not name.endswith("/"):
                yield ImageRef(entry.uri, name)
            elif not parts and _is_visible(name):
                others.add(posixpath.dirname(entry.uri), name)
        yield from others.refs()

    def list_folder(self, folder: PendingFolder) -> Iterator[ImageRef]:
        """Yield the matches in a folder and all its subfolders, and what is skipped there.

        Raises:
            OSError: if the bucket can't be listed.
        """
        match, others = re.compile(folder.regex, re.DOTALL).fullmatch, OtherFiles()
        # Files that a glob does not match are not meant. Files in a plain folder may be.
        is_plain = folder.regex == _folder_regex(self.extensions)
        for entry in self.stores.entries(scheme_of(folder.uri), folder.uri, True, self.retry_policy):
            name = entry.uri[len(folder.root) :]
            # Consoles create an object whose name ends with a slash for an empty folder.
            if match(name) and not name.endswith("/"):
                yield ImageRef(entry.uri, name)
            elif is_plain and _is_visible(name):
                others.add(posixpath.dirname(entry.uri), name)
        yield from others.refs()

    def exists(self, uri: str) -> bool:
        """Return whether there is an object of exactly this name.

        Raises:
            OSError: if the bucket can't be listed.
        """
        if not split_bucket(uri)[1]:
            return False
        # Entries come sorted by name, so an object that is named like the prefix comes first. Without the content of
        # folders: a store without prefixes, such as the hub, would list all of it.
        first = next(self.stores.entries(scheme_of(uri), uri, False, self.retry_policy), None)
        return first is not None and first.uri == uri


def has_extension(name: str, extensions: frozenset[str]) -> bool:
    """Return whether a file name ends with one of these extensions, which are in lower case."""
    return posixpath.splitext(name)[1].lower() in extensions


def _is_visible(name: str) -> bool:
    """Return whether a relative name is that of a file without a hidden folder, and is not hidden itself."""
    return bool(name) and not name.endswith("/") and not any(part.startswith(".") for part in name.split("/"))


def split_glob(pattern: str) -> tuple[str, list[str]]:
    """Split a pattern into its longest folder without wildcards, ending with a slash, and the names that follow.

    Without wildcards the whole pattern is the folder, and the list is empty.
    """
    if not glob.has_magic(pattern):
        return pattern.rstrip("/") + "/", []
    scheme, _, rest = pattern.partition("://")
    parts = rest.split("/")
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return f"{scheme}://" + "".join(f"{part}/" for part in parts[:fixed]), parts[fixed:]


def _literal_prefix(parts: list[str]) -> str:
    """Return the text before the first wildcard, so that the store lists only names that begin with it."""
    return re.split(r"[*?[]", parts[0], maxsplit=1)[0] if parts else ""


def _may_match_below(name: str, parts: list[str]) -> bool:
    """Return whether a glob may match anything in a folder of this name on the first level."""
    if not parts or parts[0] == "**":
        return not name.startswith(".")
    return len(parts) > 1 and re.fullmatch(_name_regex(parts[0]), name, re.DOTALL) is not None


def _folder_regex(extensions: frozenset[str]) -> str:
    """Return a regex for all files below a folder with one of these extensions."""
    endings = "|".join(re.escape(extension) for extension in sorted(extensions))
    return rf"{_FOLDERS}{_VISIBLE}[^/]*(?i:{endings})"


def _glob_regex(parts: list[str]) -> str:
    """Return a glob as a regex. ``**`` matches any number of folders; at the end, all files below them too."""
    *folders, last = parts
    regex = "".join(_FOLDERS if part == "**" else f"{_name_regex(part)}/" for part in folders)
    return regex + (rf"{_FOLDERS}{_VISIBLE}[^/]+" if last == "**" else _name_regex(last))


def _name_regex(part: str) -> str:
    """Return one name of a glob, between two slashes, as a regex."""
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
