"""Choose the pictures that an export begins with, so that readers infer the right type of each JSON column.

Readers infer types from the first rows: `datasets` from 5 samples of a tar, polars from 100 lines. A column without a
value in these rows gets the type null, and its first value later is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from ...reader import Dataset, identifier, literal
from .values import FLOATS

# The smallest number of rows from which a known reader infers types: NUM_EXAMPLES_FOR_FEATURES_INFERENCE of `datasets`.
NUM_INFERRED = 5


def choose_first(dataset: Dataset, rows: str, order: str, columns: Sequence[str], copies: int = 1) -> list[str]:
    """Return the keys of the pictures that must come first; none if the first rows in ``order`` have all types.

    Together, the pictures have a value for each column, each field of a struct and each kind of list item that any row
    has a value for. There are few of them: each adds a type that those before it lack.

    Args:
        rows: an SQL query for one row per picture, with ``key`` and ``columns``.
        order: the SQL expressions that the rows are sorted by.
        columns: the columns whose types matter.
        copies: how many pictures have a value of each type, if so many exist. The types stay right if some of them can
            no longer be fetched.
    """
    relation = dataset.database.sql(rows)
    types = dict(zip(relation.columns, relation.types, strict=True))
    conditions = [test for column in columns for test in _conditions(identifier(column), types[column])]
    if not conditions:
        return []
    tests = ", ".join(f"coalesce({condition}, false)" for condition in conditions)
    # The keys alone first: DuckDB reads then no other column of the other pictures.
    keys = [
        literal(key) for (key,) in dataset.tuples(f"SELECT key FROM ({rows}) ORDER BY {order} LIMIT {NUM_INFERRED}")
    ]
    if not keys:
        return []
    ((known,),) = dataset.tuples(f"SELECT list([{tests}]) FROM ({rows}) WHERE key IN ({', '.join(keys)})")
    if all(sum(column) >= copies for column in zip(*known, strict=True)):
        return []
    # For each condition the rows that meet most of the others too, the best first.
    fullness = "list_sum(list_transform(met, lambda one: one::INT))"
    candidates = ", ".join(
        f"arg_max({{'key': key, 'met': met}}, ({fullness}, key), {copies}) FILTER (met[{number}])"
        for number in range(1, len(conditions) + 1)
    )
    (found,) = dataset.tuples(f"SELECT {candidates} FROM (SELECT key, [{tests}] AS met FROM ({rows}))")
    best = [keys or [] for keys in found]
    covers = ([keys[copy] if copy < len(keys) else None for keys in best] for copy in range(copies))
    return list(dict.fromkeys(chain.from_iterable(map(_cover, covers))))


def _cover(candidates: Sequence[dict[str, Any] | None]) -> Iterator[str]:
    """Yield keys until each condition that has a candidate is met. The fullest candidate comes first."""
    covered: set[int] = set()
    open_conditions = sorted(
        ((number, candidate) for number, candidate in enumerate(candidates) if candidate),
        key=lambda pair: -sum(pair[1]["met"]),
    )
    for number, candidate in open_conditions:
        if number not in covered:
            covered.update(index for index, met in enumerate(candidate["met"]) if met)
            yield candidate["key"]


def _conditions(value: str, kind: Any, depth: int = 0) -> Iterator[str]:
    """Yield an SQL condition for each scalar in a value of a type of DuckDB: whether the scalar is not null in JSON."""
    if kind.id == "struct":
        for name, child in kind.children:
            yield from _conditions(f"struct_extract({value}, {literal(name)})", child, depth)
    elif kind.id in ("list", "array"):
        item = f"item_{depth}"
        for condition in _conditions(item, kind.children[0][1], depth + 1):
            yield f"len(list_filter({value}, lambda {item}: {condition})) > 0"
    elif kind.id in FLOATS:
        # NaN and infinity become null in JSON.
        yield f"isfinite({value})"
    else:
        yield f"{value} IS NOT NULL"
