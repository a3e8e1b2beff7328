"""Fetch the files of exported pictures again, in threads, ahead of the format that writes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

from ....core.records import ImageRef
from ....images.prefetch import Fetch
from ....images.refetch import NotKeptError, relocate
from ....images.undecodable import UndecodableError
from ....io.containers.location import container_of
from ....planning.locality import read_order
from .convert import UNCHANGED, PictureFile, Wanted, readable_file

THREADS, FILES_AHEAD = 8, 16
GONE, CHANGED = "can't be fetched", "has changed since it was annotated"
UNKEPT = "has no place to fetch it from: the picture came as a data: URI, or an older version wrote the row"
# Columns of a row that its picture is fetched by, and that are not exported.
BYTE_RANGE = ("byte_offset", "byte_size")


class Packed(NamedTuple):
    """A row with the file of its picture; or ``file`` is None, and ``problem`` says why, such as ``GONE``."""

    row: dict[str, Any]
    file: PictureFile | None
    problem: str = ""


def with_pictures(
    rows: Iterable[dict[str, Any]], fetch: Fetch, num_first: int = 0, wanted: Wanted = UNCHANGED
) -> Iterator[Packed]:
    """Yield each row with the file at its ``uri``; without a file if its content does not have the row's ``sha256``.

    The columns ``width`` and ``height`` of a picture that is made smaller become those of its file. The columns
    ``BYTE_RANGE`` are removed from the rows. The order of the rows stays, except that consecutive rows from one archive
    or Parquet file are sorted by their place in it. The first ``num_first`` rows stay first.
    """
    stream = iter(rows)
    stream = chain(list(islice(stream, num_first)), _in_read_order(stream))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="export") as pool:
        in_flight: deque[Future[Packed]] = deque()
        while True:
            for row in islice(stream, FILES_AHEAD - len(in_flight)):
                in_flight.append(pool.submit(_pack, row, fetch, wanted))
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


def _pack(row: dict[str, Any], fetch: Fetch, wanted: Wanted) -> Packed:
    exported = {name: value for name, value in row.items() if name not in BYTE_RANGE}
    try:
        content = fetch(_ref(row).location)
    except NotKeptError:
        return Packed(exported, None, UNKEPT)
    except ValueError:
        # Such as another member of a repacked archive, or an empty file.
        return Packed(exported, None, CHANGED)
    except (OSError, RuntimeError):
        return Packed(exported, None, GONE)
    if sha256(content).hexdigest() != row["sha256"]:
        return Packed(exported, None, CHANGED)
    try:
        file = readable_file(content, wanted)
    except UndecodableError as error:
        return Packed(exported, None, f"can't be decoded here: {error}")
    if file.size is not None:
        exported["width"], exported["height"] = file.size
    return Packed(exported, file)
