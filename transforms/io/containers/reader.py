"""Read images out of archives and Parquet files, each part of such a file once if they are read in order."""

from __future__ import annotations

from typing import Any

from ..block_cache import CACHE_BYTES, BlockReader, LruCache, ReadRange
from ..files import open_file
from ..object_stores.base import Stores
from ..retry import RetryPolicy
from ..uris import OBJECT_STORE_SCHEMES, path_of, scheme_of
from .compression import decompress_blocks
from .forward_stream import StreamPool, read_at
from .location import RETRY, ImageCell, Member, is_compressed
from .parquet_images import find_row, image_bytes, read_cells, read_footer, row_group
from .tar import HEADER_BYTES, check_member, list_links


class ContainerReader:
    """Reads images out of archives and Parquet files. Threads share its cache of blocks and its open streams."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.window = LruCache(CACHE_BYTES)
        self._blocks, self.streams = BlockReader(self.window), StreamPool(self.window)

    def read_member(self, member: Member, retry_policy: RetryPolicy) -> bytes:
        """Return the bytes of a member of an archive.

        Raises:
            OSError: if the archive can't be read.
            ValueError: if the archive is broken, ends before the member does, or has another member at its offset.
        """
        archive, start, size = member.archive, member.offset - HEADER_BYTES, member.size + HEADER_BYTES
        if is_compressed(archive):
            stream = self.streams.get(
                archive,
                lambda: decompress_blocks(
                    archive, lambda: open_file(archive, self._stores, retry_policy, decompress=False)
                ),
            )
            content = read_at(stream, start, size)
        else:
            content = self._blocks.read(archive, start, size, self._parts_of(archive, retry_policy))
        return check_member(content, member, lambda: self._links_of(archive))

    def read_cell(self, cell: ImageCell, limit: int, retry_policy: RetryPolicy) -> bytes:
        """Return the bytes of an image in a Parquet file.

        Raises:
            OSError: if the file can't be read.
            ValueError: if the file is broken, or the cell is null, over ``limit`` bytes or no longer in the file.
        """

        def open_it() -> Any:
            return open_file(cell.file, self._stores, retry_policy)

        def footer_of() -> Any:
            with open_it() as file:
                return read_footer(cell.file, file)

        footer = self.window.get_or_load(
            ("footer", cell.file), footer_of, lambda footer: footer.metadata.serialized_size
        )
        index, row = find_row(footer, cell.number)
        name = (cell.file, index, cell.column)
        group = self.window.get_or_load(("group", *name), lambda: row_group(footer, index, cell.column))
        stream = self.streams.get(name, lambda: read_cells(group, cell.column, open_it), lambda rows: rows.nbytes)
        chunk, row = divmod(row, group.at_once)
        rows = stream.chunk(chunk)
        if rows is None or row >= len(rows):
            raise ValueError(
                f"row {cell.number} is gone: the file in the URI is shorter than when it was listed{RETRY}"
            )
        return image_bytes(rows[row], limit)

    def _links_of(self, archive: str) -> dict[str, str]:
        links: dict[str, str] = self.window.get_or_load(
            ("links", archive),
            lambda: list_links(archive, self._stores),
            lambda links: sum(len(name) + len(links[name]) for name in links),
        )
        return links

    def _parts_of(self, file: str, retry_policy: RetryPolicy) -> ReadRange:
        if scheme_of(file) in OBJECT_STORE_SCHEMES:
            return lambda start, size: self._stores.read_range(file, start, size, retry_policy)
        return lambda start, size: _read_part(path_of(file), start, size)


def _read_part(path: str, start: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
