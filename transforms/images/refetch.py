"""Pictures found again by what rows show of their places; inside of another file, by what that says of itself."""

from __future__ import annotations

import math
import re
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate

from ..core.records import ImageRef
from ..io.containers.parquet_images import read_footer
from ..io.containers.tar import is_archive, list_members
from ..io.files import open_file
from ..io.object_stores.base import Stores
from ..io.uris import DATA, LOCAL, OBJECT_STORE_SCHEMES, display_uri, scheme_of, unescape_non_utf8, unescape_path
from .formats import EXTENSIONS
from .prefetch import Fetch

# Whoever goes through them archive by archive needs one, and its threads the next.
LISTINGS_KEPT = 4
SEPARATOR = "#"
# COLUMN/NUMBER, and a path behind it where there is one.
_CELL = re.compile(r"[^/#]*/(\d+)(?:/|$)")

# What stands in front of a row's URI for a name in a file; None where there is nothing of that name.
Listing = Callable[[str], str | None]


class SearchTakesLongError(OSError):
    """A file is not searched, as those before it took too long."""


class Relocator:
    """A fetcher for URIs as they stand in rows. Threads may share it.

    A URI that names a member of an archive, or a row of a Parquet file, stands for where that lies now. Each such file
    is listed once, and none any more when listing has taken so many ``seconds``.
    """

    def __init__(self, fetch: Fetch, seconds: float = math.inf) -> None:
        self._fetch, self._seconds = fetch, seconds
        self._stores = Stores()
        self._listings: OrderedDict[str, Listing | OSError] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> bytes:
        """The content of the picture.

        Raises:
            OSError: its archive can't be read, has nothing of that name, or is not searched.
            OSError, ValueError, RuntimeError: as the fetcher does.
        """
        return self._fetch(self.place_of(uri))

    def place_of(self, uri: str) -> str:
        """The URI by which a fetcher finds what a row shows.

        Raises:
            OSError: its archive can't be read, has nothing of that name, or is not searched.
        """
        written = archive_of(uri)
        if not written:
            return unescape_path(uri)
        file, name = unescape_path(written), uri[len(written) + len(SEPARATOR) :]
        with self._lock:
            listing = self._listings.pop(file, None)
            if listing is None:
                listing = self._list(file)
            self._listings[file] = listing
            if len(self._listings) > LISTINGS_KEPT:
                self._listings.popitem(last=False)
        if isinstance(listing, OSError):
            raise listing
        for named in (name, unescape_non_utf8(name)):
            if (front := listing(named)) is not None:
                return front + file + SEPARATOR + named
        raise FileNotFoundError(f"{uri}: there is nothing of that name")

    def _list(self, file: str) -> Listing | OSError:
        started = time.monotonic()
        try:
            return self._members(file, started + self._seconds) if is_archive(file) else self._cells(file)
        except OSError as error:
            return error
        except ValueError as error:
            return OSError(str(error))
        finally:
            self._seconds -= time.monotonic() - started

    def _members(self, archive: str, end: float) -> Listing:
        fronts: dict[str, str] = {}
        for ref in list_members(ImageRef(archive, archive), EXTENSIONS, self._stores):
            if time.monotonic() > end:
                raise SearchTakesLongError(f"{archive}: searching took too long")
            # What is wrong with an archive does not make worse what came before it.
            if not ref.problem:
                uri = display_uri(ref.uri)
                fronts[uri[len(archive) + len(SEPARATOR) :]] = ref.uri[: -len(uri)]
        return fronts.get

    def _cells(self, path: str) -> Listing:
        if self._seconds <= 0:
            raise SearchTakesLongError(f"{path}: searching took too long")
        with open_file(path, self._stores) as file:
            footer = read_footer(path, file)
        starts = [0, *accumulate(footer.row_group(group).num_rows for group in range(footer.num_row_groups))]

        def front(name: str) -> str | None:
            cell = _CELL.match(name)
            row = int(cell[1]) - 1 if cell else -1
            if not 0 <= row < starts[-1]:
                return None
            group = bisect_right(starts, row) - 1
            return f"parquet:{group}:{row - starts[group]}:"

        return front


def archive_of(uri: str) -> str:
    """The archive or Parquet file inside of which a picture lies, by its URI; empty where that names none."""
    if scheme_of(uri) not in (LOCAL, *OBJECT_STORE_SCHEMES):
        return ""
    at = uri.find(SEPARATOR)
    while at >= 0:
        file, name = uri[:at], uri[at + len(SEPARATOR) :]
        if is_archive(file) or (file.lower().endswith(".parquet") and _CELL.match(name)):
            return file
        at = uri.find(SEPARATOR, at + 1)
    return ""


def is_kept(uri: str) -> bool:
    """Whether a row's URI leads to its picture: that of a data: URI holds a digest in place of it."""
    return scheme_of(uri) != DATA
