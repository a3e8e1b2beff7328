"""Where an image lies inside an archive or a file of columns, and how rows name that place."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..uris import LOCAL, OBJECT_STORE_SCHEMES, scheme_of

PLAIN, COMPRESSED = (".tar",), (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
PARQUET = ".parquet"
# Files of columns, whose cells can hold pictures. Arrow files are those of `datasets.save_to_disk`.
ARROW = (".arrow", ".feather")
COLUMNAR = (PARQUET, *ARROW)
# Stands in the URI of a row between the container and the name of the image inside it.
SEPARATOR = "#"
# The end of a message about a container that changed between listing and reading.
RETRY = "; run the command again with --retry-errors"
# COLUMN/NUMBER, and a path if the row has one.
_CELL_NAME = re.compile(r"([^/#]*)/(\d+)(?:/|$)")


class Member(NamedTuple):
    """An image in a tar archive: ``size`` bytes from byte ``offset`` on, both of the decompressed archive.

    ``name`` is the name in the archive; ``#2`` and so on is appended when several members have the same name.
    ``target``: if the image is a link, the name of the member with its bytes. It is "" for every other member, and for
    members that are made from rows.
    """

    archive: str
    offset: int
    size: int
    name: str
    target: str = ""

    @property
    def uri(self) -> str:
        """The URI in rows, ``ARCHIVE#NAME``."""
        return f"{self.archive}{SEPARATOR}{self.name}"


class ImageCell(NamedTuple):
    """An image in a column of a Parquet file, in row ``number`` of the file, counted from 1.

    ``row_group``, counted from 0, is the group that held the row when the file was listed. None means that it is not
    known. It decides which images share a shard; the image is found by its number alone.
    """

    file: str
    column: str
    number: int
    row_group: int | None = None


def is_archive(uri: str) -> bool:
    """Return whether a name ends like that of a tar archive, compressed or not."""
    return uri.lower().endswith(PLAIN + COMPRESSED)


def is_compressed(archive: str) -> bool:
    """Return whether a name ends like that of a compressed archive, which can only be read from its beginning."""
    return archive.lower().endswith(COMPRESSED)


def cell_uri(cell: ImageCell, path: str) -> str:
    """Return the URI in rows, ``FILE#COLUMN/NUMBER/PATH``, without ``/PATH`` if ``path`` is empty.

    The column name is percent-encoded, so that it holds neither ``/`` nor ``#``.
    """
    return f"{cell.file}{SEPARATOR}{quote(cell.column, safe='')}/{cell.number}{path and f'/{path}'}"


def container_of(uri: str) -> str:
    """Return the URI of the archive or Parquet file before ``#`` in a row's URI; "" if there is none."""
    return _split(uri)[0]


def locate(
    uri: str, byte_offset: int | None, byte_size: int | None, row_group: int | None = None
) -> Member | ImageCell | None:
    """Return the place inside an archive or Parquet file that a row's URI names; None if it names a file of its own.

    Raises:
        ValueError: if the URI names a member of an archive, and ``byte_offset`` or ``byte_size`` is None.
    """
    container, name = _split(uri)
    if not container:
        return None
    if is_archive(container):
        if byte_offset is None or byte_size is None:
            raise ValueError(
                f"{uri} is a member of an archive: give its byte_offset and byte_size too, as ReadImages does"
            )
        return Member(container, byte_offset, byte_size, name)
    column, number, *_ = name.split("/")
    return ImageCell(container, unquote(column), int(number), row_group)


def _split(uri: str) -> tuple[str, str]:
    if scheme_of(uri) in (LOCAL, *OBJECT_STORE_SCHEMES):
        at = uri.find(SEPARATOR)
        while at >= 0:
            container, name = uri[:at], uri[at + len(SEPARATOR) :]
            if is_archive(container) or (container.lower().endswith(COLUMNAR) and _CELL_NAME.match(name)):
                return container, name
            at = uri.find(SEPARATOR, at + 1)
    return "", ""
