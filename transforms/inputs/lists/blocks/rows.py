"""Read the addresses of a manifest in blocks, and row by row what needs a closer look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from ....io.containers.location import COLUMNAR
from ....io.files import open_file
from ....io.parquet import ROWS_PER_BATCH, batch_rows, open_table
from ..table_files import CSV, kind_of, partitions_of
from ..tables import TableRow, table_rows, until_damage
from .delimited import DelimitedFile, Record
from .lines import PlainLines


class RowBlock(NamedTuple):
    """Many rows without a problem.

    Attributes:
        values: the texts of one column, or null.
        rows: returns the rows at the given places in the block.
        last: the number of the last row.
    """

    values: pa.Array
    rows: Callable[[Any], Iterable[TableRow]]
    last: int


def read_blocks(path: str, column: str) -> Iterator[RowBlock | TableRow]:
    """Yield the rows that ``read_rows(path, [column])`` yields, many of them as blocks.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it has another format than its name says, or no valid header.
    """

    def read() -> Iterator[RowBlock | TableRow]:
        with open_file(path) as file:
            yield from _blocks(path, file, column)

    return until_damage(read(), lambda found: found.number if isinstance(found, TableRow) else found.last)


def _blocks(path: str, file: Any, column: str) -> Iterator[RowBlock | TableRow]:
    kind = kind_of(path)
    if kind in COLUMNAR:
        table = open_table(path, file)
        if column in table.schema_arrow.names and _is_text(table.schema_arrow.field(column).type):
            return _parquet_blocks(table, column)
    elif kind in CSV:
        return _csv_blocks(path, file, kind == ".tsv", column)
    return table_rows(path, file, [column], {})


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _parquet_blocks(table: Any, column: str) -> Iterator[RowBlock]:
    number = 0
    for batch in table.iter_batches(ROWS_PER_BATCH, columns=[column]):

        def rows(places: Any, batch: pa.RecordBatch = batch, first: int = number + 1) -> Iterator[TableRow]:
            chosen = batch_rows(batch.take(pa.array(places)), [column], {})
            for place, row in zip(places, chosen, strict=True):
                yield TableRow(first + int(place), row.values, row.problem)

        number += len(batch)
        yield RowBlock(batch.column(0).cast(pa.string()), rows, number)


def _csv_blocks(path: str, file: Any, is_tsv: bool, column: str) -> Iterator[RowBlock | TableRow]:
    partitions = partitions_of(path)
    with DelimitedFile(path, file, is_tsv) as table:
        header = table.header

        def row_of(number: int, fields: list[str], problem: str = "") -> TableRow:
            return TableRow(number, {} if problem else partitions | dict(zip(header, fields, strict=True)), problem)

        if column not in header:
            yield from (row_of(*record) for record in table.records())
            return

        for block in table.blocks(header.index(column)):
            if isinstance(block, Record):
                yield row_of(*block)
                continue

            def rows(places: Any, block: PlainLines = block) -> Iterator[TableRow]:
                return (row_of(block.numbers[each], block.fields(each, table.delimiter)) for each in places)

            if block.lines:
                yield RowBlock(block.values, rows, block.numbers[-1])
