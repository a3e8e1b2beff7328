"""Pictures inside of Parquet: in a column of bytes, or of bytes and a path, as ``datasets`` writes them."""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from ..block_cache import BLOCK_BYTES
from ..parquet import ROWS_PER_BATCH, batch_rows, open_parquet
from ..retry import FetchError, too_large

BYTES, PATH = "bytes", "path"
# parquet:GROUP:ROW:FILE#COLUMN/NUMBER/PATH: the row of a group, both from 0, and that of the file, from 1.
_CELL = re.compile(r"parquet:(\d+):(\d+):(.*?\.parquet)#([^/#]*)/(\d+)", re.DOTALL | re.IGNORECASE)


class ImageCell(NamedTuple):
    """Where a picture lies: in this row, from 0, of a row group; ``number`` is that of the row in the file, from 1."""

    file: str
    group: int
    row: int
    column: str
    number: int


class RowGroup(NamedTuple):
    """A row group: the ``footer`` of its file, the name of its pictures' bytes there, its rows, how many of them are
    read at once, which is about a block of pictures, and the bytes of a request for them."""

    footer: Any
    leaf: str
    rows: int
    at_once: int
    buffer: int


class ListedImage(NamedTuple):
    """A picture, by the number of its row, from 1; ``values`` are those of other columns, or there is a ``problem``."""

    number: int
    uri: str
    name: str
    values: dict[str, Any]
    problem: str = ""


def cell_of(uri: str) -> ImageCell:
    """What the URI of such a picture says.

    Raises:
        ValueError: it is none.
    """
    match = _CELL.match(uri)
    if not match:
        raise ValueError("this is no picture in a Parquet file")
    return ImageCell(match[3], int(match[1]), int(match[2]), unquote(match[4]), int(match[5]))


def list_pictures(path: str, file: Any, column: str, others: Sequence[str]) -> Iterator[ListedImage]:
    """A picture for each row of an open file, whose URI in rows is ``FILE#COLUMN/NUMBER``, with a path behind it where
    there is one. Their bytes are not read.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file, or has no such column.
    """
    table = open_parquet(path, file)
    kind = check_pictures(path, table.schema_arrow, column)
    groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    # Else a file of a kilobyte could be the list of a billion pictures.
    if sum(groups) > file.seek(0, io.SEEK_END):
        raise ValueError(f"manifest {path}: this is no Parquet file: it tells of more rows than it has bytes")
    has_path = pa.types.is_struct(kind) and any(field.name == PATH and pa.types.is_string(field.type) for field in kind)
    columns = [name for name in others if name in table.schema_arrow.names] + [f"{column}.{PATH}"] * has_path
    number = 0
    for group, rows in enumerate(groups):
        for row, (values, problem) in enumerate(_values(table, group, rows, columns)):
            number += 1
            told = values.pop(column, None) if has_path else None
            inside = f"/{told[PATH]}" if told and told[PATH] else ""
            uri = f"parquet:{group}:{row}:{path}#{quote(column, safe='')}/{number}{inside}"
            yield ListedImage(number, uri, inside[1:] or f"{posixpath.basename(path)}#{number}", values, problem)


def check_pictures(path: str, schema: pa.Schema, column: str) -> pa.DataType:
    """The type of a column that may hold pictures.

    Raises:
        ValueError: there is no such column, or it can't hold any.
    """
    if schema.names.count(column) != 1:
        raise ValueError(f"manifest {path} has no column {column!r}; it has {', '.join(schema.names[:20])}")
    kind = schema.field(column).type
    inner = [field.type for field in kind if field.name == BYTES] if pa.types.is_struct(kind) else [kind]
    if len(inner) != 1 or not (pa.types.is_binary(inner[0]) or pa.types.is_large_binary(inner[0])):
        raise ValueError(
            f"manifest {path}: column {column!r} holds {kind}: pictures are binary, or struct<bytes, path>"
        )
    return kind


def read_footer(path: str, file: Any) -> Any:
    """What an open file says of itself.

    Raises:
        OSError: it can't be read.
        ValueError: it is no Parquet file.
    """
    return open_parquet(path, file).metadata


def group_of(footer: Any, cell: ImageCell) -> RowGroup:
    """The row group of a cell.

    Raises:
        ValueError: there is none any more, or no such column in it.
    """
    if cell.group < footer.num_row_groups:
        group = footer.row_group(cell.group)
        chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
        for leaf in (f"{cell.column}.{BYTES}", cell.column):
            if chunk := chunks.get(leaf):
                at_once = BLOCK_BYTES * group.num_rows // max(1, chunk.total_uncompressed_size)
                buffer = min(BLOCK_BYTES, max(1, chunk.total_compressed_size))
                return RowGroup(footer, leaf, group.num_rows, max(1, min(ROWS_PER_BATCH, at_once)), buffer)
    raise ValueError("the Parquet file is another than it was when it was listed")


def read_cells(group: RowGroup, cell: ImageCell, open_it: Callable[[], Any]) -> Iterator[pa.Array]:
    """The column in the group of a cell, some rows at a time. Of the file a page of this column, and a buffer, are in
    memory.

    Raises:
        OSError: the file can't be read.
        ValueError: it is broken.
    """
    columns, left = _columns(group, cell, open_it), group.rows
    for column in columns:
        if len(column) != min(left, group.at_once):
            # Arrow does so where bytes pass two gigabytes: rows behind it would be taken for others.
            raise ValueError("rows of the Parquet file can't be read at once: they are too large")
        left -= len(column)
        if left <= 0:
            # Nobody may ever ask whether there is more: its page and its buffer can go.
            columns.close()
        yield column


def read_picture(value: Any, limit: int) -> bytes:
    """The bytes in a cell, given as Arrow's scalar.

    Raises:
        ValueError: there are none, or more than ``limit``.
    """
    told = isinstance(value, pa.StructScalar)
    if not value.is_valid:
        raise ValueError("the row has no picture")
    value = value[BYTES] if told else value
    if not value.is_valid:
        raise ValueError("the row has no bytes, a path at best: what a dataset only points to is not looked for")
    content = value.as_buffer()
    if content.size > limit:
        raise too_large(limit)
    return bytes(content.to_pybytes())


def _values(table: Any, group: int, rows: int, columns: list[str]) -> Iterator[tuple[dict[str, Any], str]]:
    if not columns:
        yield from (({}, "") for _ in range(rows))
        return
    for batch in table.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=columns, use_threads=False):
        yield from batch_rows(batch)


def _columns(group: RowGroup, cell: ImageCell, open_it: Callable[[], Any]) -> Generator[pa.Array, None, None]:
    with open_it() as file:
        try:
            table = pq.ParquetFile(file, metadata=group.footer, buffer_size=group.buffer, pre_buffer=False)
            wanted = {"row_groups": [cell.group], "columns": [group.leaf]}
            for batch in table.iter_batches(group.at_once, **wanted, use_threads=False):
                yield batch.column(cell.column)
        except FetchError:
            raise
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"the Parquet file is broken: {error}") from error
