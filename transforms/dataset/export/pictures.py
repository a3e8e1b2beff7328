"""Fetch the files of exported pictures again, in threads, ahead of the format that writes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from ...core.records import ImageRef
from ...images.decode import open_image
from ...images.formats import extension_of
from ...images.prefetch import Fetch
from ...images.refetch import NotKeptError, relocate
from ...io.containers.location import container_of
from ...planning.locality import read_order

THREADS, FILES_AHEAD = 8, 16
GONE, CHANGED = "can't be fetched", "has changed since it was annotated"
UNKEPT = "has no place to fetch it from: the picture came as a data: URI, or an older version wrote the row"
# Columns of a row that its picture is fetched by, and that are not exported.
BYTE_RANGE = ("byte_offset", "byte_size")


class Packed(NamedTuple):
    """A row with the bytes of its picture's file; or empty ``content`` and the ``problem``, such as ``GONE``."""

    row: dict[str, Any]
    content: bytes
    problem: str = ""

    @property
    def extension(self) -> str:
        """Return the extension of the content's file format without a dot, such as ``jpg``; the name is ignored."""
        return extension_of(open_image(self.content).format or "")


def with_pictures(rows: Iterable[dict[str, Any]], fetch: Fetch) -> Iterator[Packed]:
    """Yield each row with the file at its ``uri``; without content if the file does not have the row's ``sha256``.

    The columns ``BYTE_RANGE`` are removed from the rows. The order of the rows stays, except that consecutive rows
    from one archive or Parquet file are sorted by their place in it.
    """
    stream = _in_read_order(rows)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="export") as pool:
        in_flight: deque[Future[Packed]] = deque()
        while True:
            for row in islice(stream, FILES_AHEAD - len(in_flight)):
                in_flight.append(pool.submit(_pack, row, fetch))
            if not in_flight:
                return
            yield in_flight.popleft().result()


def _in_read_order(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    def place(row: dict[str, Any]) -> tuple[str, int]:
        try:
            return read_order(_ref(row))
        except NotKeptError:
            return "", 0

    groups = groupby(rows, key=lambda row: container_of(row["uri"]))
    return chain.from_iterable(sorted(group, key=place) if container else group for container, group in groups)


def _ref(row: dict[str, Any]) -> ImageRef:
    return relocate(row["uri"], *(row[name] for name in BYTE_RANGE))


def _pack(row: dict[str, Any], fetch: Fetch) -> Packed:
    problem, content = "", b""
    try:
        content = fetch(_ref(row).location)
        problem = "" if sha256(content).hexdigest() == row["sha256"] else CHANGED
    except NotKeptError:
        problem = UNKEPT
    except ValueError:
        # Such as another member of a repacked archive, or an empty file.
        problem = CHANGED
    except (OSError, RuntimeError):
        problem = GONE
    exported = {name: value for name, value in row.items() if name not in BYTE_RANGE}
    return Packed(exported, b"" if problem else content, problem)
