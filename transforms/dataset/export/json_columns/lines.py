"""Lines of JSON made by DuckDB, which takes a fraction of the time that an object of Python for each row takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from ...reader import Dataset, identifier, literal
from .structured import FieldColumn, field_values
from .values import json_expression, to_json_value

# What ``Splits.choose`` needs of a row.
NAMES = ("key", "sha256")


def json_lines(
    dataset: Dataset, rows: str, order: str, fields: Mapping[str, Sequence[FieldColumn]]
) -> Iterator[tuple[dict[str, str], str]]:
    """Yield ``NAMES`` of each row, and the row as a JSON object on a line that ends with a newline.

    The values are those of ``to_json_value``, and the fields of structured answers follow after all columns. DuckDB
    writes the columns before the first one whose type needs ``to_json_value``, and Python writes the rest.

    Args:
        rows: an SQL query with columns ``NAMES``. Its first column has a type that DuckDB can write.
        order: the SQL expressions that the rows are sorted by.
        fields: a column of ``rows`` with structured answers -> the columns of its fields.
    """
    relation = dataset.database.sql(rows)
    kinds = zip(relation.columns, relation.types, strict=True)
    written = {name: json_expression(identifier(name), kind) for name, kind in kinds}
    start = list(takewhile(written.get, written))
    rest = list(written)[len(start) :]
    read = [*rest, *fields]
    values = ", ".join(f"{literal(name)}, {written[name]}" for name in start)
    chosen = ", ".join([f"CAST(json_object({values}) AS VARCHAR) AS line", *map(identifier, [*NAMES, *read])])
    # Sorted before, because a line is longer than its values.
    for line, *found in dataset.stream(f"SELECT {chosen} FROM (SELECT * FROM ({rows}) ORDER BY {order})"):
        names = dict(zip(NAMES, found, strict=False))
        if read:
            own = dict(zip(read, map(to_json_value, found[len(NAMES) :]), strict=True))
            more = {name: own[name] for name in rest}
            for column, columns in fields.items():
                more |= field_values(own[column], columns)
            text = json.dumps(more, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            line = f"{line[:-1]},{text[1:]}"
        yield names, f"{line}\n"
