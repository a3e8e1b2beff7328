"""The types of columns of JSON Lines, from the values in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ...io.column_types import JsonNumber


def parse_json(line: bytes | str) -> Any:
    """Return the value of a line of JSON. Numbers with a fraction or an exponent are ``JsonNumber``.

    Raises:
        ValueError: if this is no JSON, or if an object has a key twice, because one of the values would be lost.
    """
    return json.loads(line, parse_float=JsonNumber, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return found


# Integers up to this absolute value are exact as floats.
MAX_EXACT_INTEGER = 2**53
# Metadata of a column: the kinds of its values, if they are several.
MIXED = b"mixed"
_KINDS = {
    bool: "boolean",
    float: "float",
    JsonNumber: "float",
    type(None): "null",
    str: "text",
    list: "array",
    dict: "object",
}
_INTEGERS = {"integer", "large integer", "huge integer"}
# A column has the first type that all its values fit, or else text.
_TYPES: tuple[tuple[set[str], pa.DataType], ...] = (
    (set(), pa.null()),
    ({"boolean"}, pa.bool_()),
    ({"integer", "large integer"}, pa.int64()),
    ({"integer", "float"}, pa.float64()),
)


def json_schema(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Return the columns of all rows with their types: boolean, int64, float64, text, or null if there is no value.

    If the values of a column are of several kinds, its metadata ``MIXED`` names them: numbers of both kinds become
    float64, others text.
    """
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_KINDS.get(type(value)) or _kind_of_integer(value))
    return pa.schema([_field(name, found - {"null"}) for name, found in kinds.items()])


def _kind_of_integer(value: int) -> str:
    if abs(value) <= MAX_EXACT_INTEGER:
        return "integer"
    return "large integer" if -(2**63) <= value < 2**63 else "huge integer"


def _field(name: str, kinds: set[str]) -> pa.Field:
    kind = next((kind for fitting, kind in _TYPES if kinds <= fitting), pa.string())
    is_mixed = len(kinds) > 1 and not kinds <= _INTEGERS
    return pa.field(name, kind, metadata={MIXED: ", ".join(sorted(kinds))} if is_mixed else None)
