"""Pictures that lie inside other files, read in the order in which they lie: each stretch of such a file once."""

from __future__ import annotations

from typing import Any

from ..block_cache import CACHE_BYTES, BlockReader, LruCache, ReadRange
from ..files import open_file
from ..object_stores.base import Stores
from ..retry import RetryPolicy
from ..uris import OBJECT_STORE_SCHEMES, path_of, scheme_of
from .compression import decompress_blocks
from .forward_stream import StreamPool, read_at
from .parquet_images import ImageCell, group_of, read_cells, read_footer, read_picture
from .tar import HEADER_BYTES, Member, is_compressed, read_member


class ContainerReader:
    """What a process keeps of such files: their latest blocks, and the streams that it reads. Threads may share it."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.window = LruCache(CACHE_BYTES)
        self._blocks, self.streams = BlockReader(self.window), StreamPool(self.window)

    def member(self, member: Member, retry_policy: RetryPolicy) -> bytes:
        """The bytes of a member of an archive.

        Raises:
            OSError: they can't be had.
            ValueError: something else lies there now.
        """
        archive, start, size = member.archive, member.offset - HEADER_BYTES, member.size + HEADER_BYTES
        if is_compressed(archive):
            stream = self.streams.of(
                archive,
                lambda: decompress_blocks(
                    archive, lambda: open_file(archive, self._stores, retry_policy, decompress=False)
                ),
            )
            return read_member(read_at(stream, start, size), member)
        return read_member(self._blocks.read(archive, start, size, self._parts_of(archive, retry_policy)), member)

    def cell(self, cell: ImageCell, limit: int, retry_policy: RetryPolicy) -> bytes:
        """The bytes of a picture in a Parquet file, no more than ``limit``.

        Raises:
            OSError: they can't be had.
            ValueError: there are none, or something else lies there now.
        """

        def open_it() -> Any:
            return open_file(cell.file, self._stores, retry_policy)

        def footer_of() -> Any:
            with open_it() as file:
                return read_footer(cell.file, file)

        name = (cell.file, cell.group, cell.column)
        footer = self.window.get_or_load(("footer", cell.file), footer_of, lambda footer: footer.serialized_size)
        group = self.window.get_or_load(("group", *name), lambda: group_of(footer, cell))
        stream = self.streams.of(name, lambda: read_cells(group, cell, open_it), lambda rows: rows.nbytes)
        index, row = divmod(cell.row, group.at_once)
        rows = stream.piece(index)
        if rows is None or row >= len(rows):
            raise ValueError("the Parquet file is shorter than it was when it was listed")
        return read_picture(rows[row], limit)

    def _parts_of(self, file: str, retry_policy: RetryPolicy) -> ReadRange:
        if scheme_of(file) in OBJECT_STORE_SCHEMES:
            return lambda start, size: self._stores.read_range(file, start, size, retry_policy)
        return lambda start, size: _read_part(path_of(file), start, size)


def _read_part(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
