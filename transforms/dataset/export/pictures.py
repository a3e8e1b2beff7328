"""Fetch the files of exported pictures again, in threads, ahead of the format that writes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from ...core.records import ImageRef
from ...images.decode import open_picture
from ...images.prefetch import Fetch
from ...images.refetch import Relocator, archive_of, is_kept
from ...planning.locality import read_order

THREADS, FILES_AHEAD = 8, 16
GONE, CHANGED = "can't be fetched", "has changed since it was annotated"
UNKEPT = "came as a data: URI, which rows don't keep"
# What others call the formats that Pillow knows.
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}


class Packed(NamedTuple):
    """A row with the bytes of its picture's file; or empty ``content`` and the ``problem``, such as ``GONE``."""

    row: dict[str, Any]
    content: bytes
    problem: str = ""

    @property
    def extension(self) -> str:
        """Return the extension of the content's file format without a dot, such as ``jpg``; the name is ignored."""
        kind = open_picture(self.content).format or ""
        return EXTENSIONS.get(kind, kind.lower())


def with_pictures(rows: Iterable[dict[str, Any]], fetch: Fetch) -> Iterator[Packed]:
    """Each row with the file at its ``uri``. A file that is not the one with its ``sha256`` is not given.

    They come in order; rows that follow each other and whose pictures are inside of one file come as they lie in it.
    """
    stream = _as_they_lie(rows, again := Relocator(fetch))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="export") as pool:
        under_way: deque[Future[Packed]] = deque()
        while True:
            for row in islice(stream, FILES_AHEAD - len(under_way)):
                under_way.append(pool.submit(_pack, row, again))
            if not under_way:
                return
            yield under_way.popleft().result()


def _as_they_lie(rows: Iterable[dict[str, Any]], again: Relocator) -> Iterator[dict[str, Any]]:
    def where(row: dict[str, Any]) -> tuple[str, int, int]:
        try:
            return read_order(ImageRef(again.place_of(row["uri"]), ""))
        except (OSError, ValueError, RuntimeError):
            return ("", 0, 0)

    groups = groupby(rows, key=lambda row: archive_of(row["uri"]))
    return chain.from_iterable(sorted(group, key=where) if home else group for home, group in groups)


def _pack(row: dict[str, Any], fetch: Fetch) -> Packed:
    if not is_kept(row["uri"]):
        return Packed(row, b"", UNKEPT)
    try:
        content = fetch(row["uri"])
    except (OSError, ValueError, RuntimeError):
        return Packed(row, b"", GONE)
    return Packed(row, content) if sha256(content).hexdigest() == row["sha256"] else Packed(row, b"", CHANGED)
