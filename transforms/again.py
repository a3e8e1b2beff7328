"""Pictures found again by what rows show of their places: where one lies in an archive, the archive's headers tell."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict

from .archives import is_archive, list_members
from .load import Fetch
from .read import EXTENSIONS
from .records import ImageRef
from .uris import BUCKETS, DATA, LOCAL, scheme_of, shown

# Whoever goes through them archive by archive needs one, and its threads the next.
LISTINGS_KEPT = 4
SEPARATOR = "#"


class SearchTakesLongError(OSError):
    """An archive is not searched, as those before it took too long."""


class Again:
    """A fetcher for URIs as they stand in rows. Threads may share it.

    A URI that names a member of an archive stands for where that lies now; each archive is listed once, and no more
    when listing has taken so many ``seconds``.
    """

    def __init__(self, fetch: Fetch, seconds: float = math.inf) -> None:
        self._fetch, self._seconds = fetch, seconds
        self._listings: OrderedDict[str, dict[str, str] | OSError] = OrderedDict()
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
        archive = archive_of(uri)
        if not archive:
            return uri
        name = uri[len(archive) + len(SEPARATOR) :]
        with self._lock:
            listing = self._listings.pop(archive, None)
            if listing is None:
                listing = self._list(archive)
            self._listings[archive] = listing
            if len(self._listings) > LISTINGS_KEPT:
                self._listings.popitem(last=False)
        if isinstance(listing, OSError):
            raise listing
        if name not in listing:
            raise FileNotFoundError(f"there is no {name} in {archive}")
        return listing[name] + uri

    def _list(self, archive: str) -> dict[str, str] | OSError:
        started = time.monotonic()
        listing: dict[str, str] = {}
        try:
            for ref in list_members(ImageRef(archive, archive), EXTENSIONS):
                if time.monotonic() - started > self._seconds:
                    return SearchTakesLongError(f"{archive}: searching took too long")
                # What is wrong with an archive does not make worse what came before it.
                if not ref.problem:
                    uri = shown(ref.uri)
                    listing[uri[len(archive) + len(SEPARATOR) :]] = ref.uri[: -len(uri)]
        except OSError as error:
            return error
        finally:
            self._seconds -= time.monotonic() - started
        return listing


def archive_of(uri: str) -> str:
    """The archive in which a picture lies by its URI; empty where that names none."""
    scheme = scheme_of(uri)
    if scheme not in (LOCAL, *BUCKETS):
        return ""
    at = uri.find(SEPARATOR)
    while at >= 0 and not is_archive(uri[:at]):
        at = uri.find(SEPARATOR, at + 1)
    return uri[:at] if at >= 0 else ""


def is_kept(uri: str) -> bool:
    """Whether a row's URI leads to its picture: that of a data: URI holds a digest in place of it."""
    return scheme_of(uri) != DATA
