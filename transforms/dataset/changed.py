"""Leave out rows about pictures that were replaced since, so that no export pairs an answer with another picture.

A row has the sha256 of the bytes that were annotated. Rows of one picture may differ in it: one task was asked before
the picture was replaced, and another one after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

from ..core.records import ImageRef
from ..images.prefetch import LOAD_THREADS, Fetch
from ..images.refetch import NotKeptError, relocate
from ..io.uris import DATA, scheme_of
from ..planning.locality import read_order
from .reader import Dataset

# Pictures that are sorted by their place in archives and Parquet files before they are read.
MAX_BATCH_PICTURES = 4096


class PictureCheck(NamedTuple):
    """``rows`` that were left out, about ``pictures`` that have changed. ``unread`` pictures could not be read."""

    pictures: int = 0
    rows: int = 0
    unread: int = 0


def leave_out_changed(dataset: Dataset, rows: str, fetch: Fetch | None) -> PictureCheck:
    """Leave out of the view ``flagged`` the rows whose picture has other bytes now. Return what was found.

    A picture that cannot be read keeps its rows.

    Args:
        rows: a subquery over ``flagged``, whose pictures are checked.
        fetch: reads the pictures. None: no picture is read, and the latest row of a picture has its present sha256.
    """
    database = dataset.database
    database.execute("CREATE TABLE present (key VARCHAR, sha256 VARCHAR)")
    unread, has_changed = 0, False
    for picture, digest in _present(dataset, rows, fetch):
        unread += digest is None
        if digest is not None and (digest != picture["sha256"] or picture["num_digests"] > 1):
            database.execute("INSERT INTO present VALUES (?, ?)", [picture["key"], digest])
            has_changed = True
    if not has_changed:
        return PictureCheck(unread=unread)
    other = "EXISTS (SELECT 1 FROM present WHERE present.key = each.key AND present.sha256 != each.sha256)"
    ((pictures, left_out),) = dataset.tuples(f"SELECT count(DISTINCT key), count(*) FROM {rows} AS each WHERE {other}")
    database.execute("ALTER VIEW flagged RENAME TO flagged_of_all")
    database.execute(f"CREATE VIEW flagged AS SELECT * FROM flagged_of_all AS each WHERE NOT {other}")
    return PictureCheck(pictures, left_out, unread)


def _present(dataset: Dataset, rows: str, fetch: Fetch | None) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield the latest row of each picture in ``rows``, and the sha256 of the picture now; None if it can't be read.

    The row has ``key``, ``uri``, ``byte_offset``, ``byte_size``, ``sha256``, and ``num_digests``, the number of values
    that ``sha256`` has in all rows of the picture. Without ``fetch``, pictures whose rows all have one value are left
    out.
    """
    columns = ", ".join(f"{name} := {name}" for name in ("uri", "byte_offset", "byte_size", "sha256"))
    some = f"key IN (SELECT key FROM {rows})"
    if fetch is None:
        # No other picture can have a row with another sha256. Nearly always there is none, and then DuckDB reads no
        # other column.
        some += " AND key IN (SELECT key FROM data GROUP BY key HAVING min(sha256) != max(sha256))"
    latest = (
        f"SELECT key, arg_max(struct_pack({columns}), created_at) AS latest, count(DISTINCT sha256) AS num_digests "
        f"FROM data WHERE {some} GROUP BY key"
    )
    found = dataset.rows(f"SELECT * FROM ({latest}) AS each ORDER BY each.latest.uri")
    pictures = ({"key": row["key"], "num_digests": row["num_digests"], **row["latest"]} for row in found)
    if fetch is None:
        yield from ((picture, picture["sha256"]) for picture in pictures)
        return
    with ThreadPoolExecutor(LOAD_THREADS, thread_name_prefix="check") as pool:
        while batch := list(islice(pictures, MAX_BATCH_PICTURES)):
            batch.sort(key=_place)
            yield from zip(batch, pool.map(lambda picture: _digest(picture, fetch), batch), strict=True)


def _ref(picture: dict[str, Any]) -> ImageRef:
    return relocate(picture["uri"], picture["byte_offset"], picture["byte_size"])


def _place(picture: dict[str, Any]) -> tuple[str, int]:
    try:
        return read_order(_ref(picture))
    except NotKeptError:
        return "", 0


def _digest(picture: dict[str, Any], fetch: Fetch) -> str | None:
    """Return the sha256 of a picture's file now, "" if its place holds something else, or None if it can't be read."""
    if scheme_of(picture["uri"]) == DATA:
        # The URI of the row has a digest of the content.
        return str(picture["sha256"])
    try:
        return sha256(fetch(_ref(picture).location)).hexdigest()
    except NotKeptError:
        return None
    except ValueError:
        # Such as another member of a repacked archive, or an empty file.
        return ""
    except (OSError, RuntimeError):
        return None
