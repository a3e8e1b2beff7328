"""Images in a column of a Parquet or Arrow file: binary, or struct<bytes, path>, which is what ``datasets`` writes."""

from __future__ import annotations

import io
import posixpath
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..block_cache import BLOCK_BYTES
from ..column_types import is_bytes, is_text
from ..parquet import ROWS_PER_BATCH, ParquetRow, batch_rows, open_table
from ..retry import FetchError, too_large
from .arrow import ArrowFile
from .location import RETRY, ImageCell, cell_uri

BYTES, PATH = "bytes", "path"
COLUMN_GONE = f"column {{!r}} is gone: the file in the URI has changed since it was listed{RETRY}"


class Footer(NamedTuple):
    """The metadata of a file, for an Arrow file the ``ArrowFile``, which is closed.

    ``starts``: how many rows precede each row group or record batch, and last the total of rows.
    """

    metadata: Any
    starts: tuple[int, ...]


class RowGroup(NamedTuple):
    """A row group, and how its images are read: column ``leaf``, ``at_once`` rows in a step (up to ``BLOCK_BYTES``),
    in requests of ``buffer`` bytes. ``number`` counts from 0. ``rows`` is the number of rows in the group. For an Arrow
    file, this is a record batch, and ``buffer`` is not used."""

    metadata: Any
    number: int
    leaf: str
    rows: int
    at_once: int
    buffer: int


class ListedImage(NamedTuple):
    """A row with an image. ``number`` counts from 1; ``values`` are those of the other columns that were asked for.

    ``kept`` are the values of the kept columns in their stored types. ``problem`` says why the values could not be
    read, and ``values`` and ``kept`` are then empty; else it is "".
    """

    number: int
    uri: str
    name: str
    values: dict[str, Any]
    cell: ImageCell
    problem: str = ""
    kept: tuple[Any, ...] = ()


def list_cells(
    path: str, file: Any, column: str, others: Sequence[str], kept: Mapping[str, pa.DataType] | None = None
) -> Iterator[ListedImage]:
    """Yield each row of an open file, with its values of the columns ``others`` that the file has.

    ``kept`` maps the columns to keep to their stored types.

    The bytes of the images are not read. ``ListedImage.name`` is the path in the row, or else ``FILE#NUMBER``.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is no Parquet file, or ``column`` is missing or can't hold images.
    """
    table = open_table(path, file)
    kind = check_image_column(path, table.schema_arrow, column)
    groups = _group_rows(table)
    # Else a file of a kilobyte could claim a billion rows.
    if sum(groups) > file.seek(0, io.SEEK_END):
        raise ValueError(f"manifest {path}: its footer claims more rows than bytes: write it again")
    has_path = pa.types.is_struct(kind) and any(field.name == PATH and is_text(field.type) for field in kind)
    plain = [*others, *[column] * has_path]
    there = [name for name in dict.fromkeys([*others, *(kept or {})]) if name in table.schema_arrow.names]
    leaves = [*there, *[f"{column}.{PATH}"] * has_path]
    number = 0
    for group, rows in enumerate(groups):
        for row in _values(table, group, rows, leaves, plain, kept or {}):
            number += 1
            image = row.values.pop(column, None) if has_path else None
            name, cell = (image and image[PATH]) or "", ImageCell(path, column, number, group)
            listed = name or f"{posixpath.basename(path)}#{number}"
            yield ListedImage(number, cell_uri(cell, name), listed, row.values, cell, row.problem, row.kept)


def check_image_column(path: str, schema: pa.Schema, column: str) -> pa.DataType:
    """Return the type of a column that can hold images. ``path`` is for messages.

    Raises:
        ValueError: if there is no such column, or its type is neither binary nor a struct with a field ``bytes``.
    """
    if schema.names.count(column) != 1:
        raise ValueError(f"manifest {path} has no column {column!r}; it has {', '.join(schema.names[:20])}")
    kind = schema.field(column).type
    inner = [field.type for field in kind if field.name == BYTES] if pa.types.is_struct(kind) else [kind]
    if len(inner) != 1 or not is_bytes(inner[0]):
        raise ValueError(
            f"manifest {path}: column {column!r} holds {kind}: pictures are binary, or struct<bytes, path>:"
            " name such a column"
        )
    return kind


def read_footer(path: str, file: Any) -> Footer:
    """Return the footer of an open Parquet or Arrow file. ``path`` is for messages.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is no such file.
    """
    table = open_table(path, file)
    metadata = table.attached(None) if isinstance(table, ArrowFile) else table.metadata
    return Footer(metadata, tuple(accumulate(_group_rows(table), initial=0)))


def find_row(footer: Footer, number: int) -> tuple[int, int]:
    """Return the row group of row ``number`` of a file, and the row in that group, both counted from 0.

    Raises:
        ValueError: if the file has no row of that number, which is counted from 1.
    """
    if not 0 < number <= footer.starts[-1]:
        raise ValueError(f"row {number} is gone: the file in the URI is shorter than when it was listed{RETRY}")
    group = bisect_right(footer.starts, number - 1) - 1
    return group, number - 1 - footer.starts[group]


def row_group(footer: Footer, number: int, column: str) -> RowGroup:
    """Return row group ``number``, counted from 0, with what is needed to read the images in ``column``.

    Raises:
        ValueError: if the file has no such column.
    """
    if isinstance(footer.metadata, ArrowFile):
        return _record_batch(footer.metadata, number, column)
    group = footer.metadata.row_group(number)
    chunks = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    for leaf in (f"{column}.{BYTES}", column):
        if chunk := chunks.get(leaf):
            at_once = BLOCK_BYTES * group.num_rows // max(1, chunk.total_uncompressed_size)
            buffer = min(BLOCK_BYTES, max(1, chunk.total_compressed_size))
            return RowGroup(footer.metadata, number, leaf, group.num_rows, max(1, min(ROWS_PER_BATCH, at_once)), buffer)
    raise ValueError(COLUMN_GONE.format(column))


def _record_batch(table: ArrowFile, number: int, column: str) -> RowGroup:
    if column not in table.schema_arrow.names:
        raise ValueError(COLUMN_GONE.format(column))
    batch = table.batches[number]
    leaf = f"{column}.{BYTES}" if pa.types.is_struct(table.schema_arrow.field(column).type) else column
    at_once = BLOCK_BYTES * batch.rows // max(1, batch.body)
    return RowGroup(table, number, leaf, batch.rows, max(1, min(ROWS_PER_BATCH, at_once)), 0)


def read_cells(group: RowGroup, column: str, open_it: Callable[[], Any]) -> Iterator[pa.Array]:
    """Yield a column of a row group, ``group.at_once`` rows at a time; the last array may be shorter.

    ``open_it`` opens the file. One page of the column and one buffer of the file are in memory.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is broken, or its rows are too large to be read that many at a time.
    """
    arrays, left = _arrays(group, column, open_it), group.rows
    for array in arrays:
        if len(array) != min(left, group.at_once):
            # Arrow cuts a batch where its bytes pass 2 GiB. Later rows would then be counted from a wrong start.
            raise ValueError(
                "rows of the file can't be read at once: write it again with smaller pictures or row groups"
            )
        left -= len(array)
        if left <= 0:
            # The consumer may not ask for more than the last row: free the page and the buffer now.
            arrays.close()
        yield array


def image_bytes(value: Any, limit: int) -> bytes:
    """Return the bytes of an image from its cell, an Arrow scalar: binary, or a struct with a field ``bytes``.

    Raises:
        ValueError: if the cell or its bytes are null, or longer than ``limit`` bytes.
    """
    if not value.is_valid:
        raise ValueError("the row has no picture: fill in its cell, or drop the row")
    value = value[BYTES] if isinstance(value, pa.StructScalar) else value
    if not value.is_valid:
        raise ValueError(
            "the row holds at most a path: embed the image bytes in the column, or list the paths with --uri-column"
        )
    value = value.value if isinstance(value, pa.DictionaryScalar) else value
    content = value.as_buffer()
    if content.size > limit:
        raise too_large(limit)
    return bytes(content.to_pybytes())


def _group_rows(table: Any) -> list[int]:
    """Return the number of rows of each row group of an open ``ParquetFile``, or of each batch of an ``ArrowFile``."""
    if isinstance(table, ArrowFile):
        return table.group_rows
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _values(
    table: Any, group: int, rows: int, leaves: list[str], columns: list[str], kept: Mapping[str, pa.DataType]
) -> Iterator[ParquetRow]:
    """Yield the values of each row of a group, read from the columns and leaves ``leaves``; see ``batch_rows``."""
    if not leaves:
        yield from (ParquetRow({}, (None,) * len(kept)) for _ in range(rows))
        return
    for batch in table.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=leaves, use_threads=False):
        yield from batch_rows(batch, columns, kept)


def _arrays(group: RowGroup, column: str, open_it: Callable[[], Any]) -> Generator[pa.Array, None, None]:
    with open_it() as file:
        try:
            table: Any
            if isinstance(group.metadata, ArrowFile):
                table = group.metadata.attached(file)
            else:
                table = pq.ParquetFile(file, metadata=group.metadata, buffer_size=group.buffer, pre_buffer=False)
            wanted = {"row_groups": [group.number], "columns": [group.leaf]}
            for batch in table.iter_batches(group.at_once, **wanted, use_threads=False):
                yield batch.column(column)
        except FetchError:
            raise
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"the file in the URI is broken: {error}; write it again") from error
