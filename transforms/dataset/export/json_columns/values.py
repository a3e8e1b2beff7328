"""Convert values of an output to JSON: in Python, and where it is possible as SQL expressions, which are faster."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from ...reader import identifier, literal

# The types of values that are values of JSON already.
PLAIN_TYPES = frozenset((str, int, bool, type(None)))
# The types of DuckDB for which its JSON and Python's are the same value. A float must be finite.
SAME_TYPES = frozenset(
    ["VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"],
)
FLOATS = ("float", "double")


def to_json_value(value: Any) -> Any:
    """Convert a value of DuckDB to a JSON value: NaN and infinity to None, datetimes to ISO 8601, others to str."""
    # The types that most values have come first: a box has four floats.
    kind = type(value)
    if kind in PLAIN_TYPES:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): to_json_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)


def json_expression(value: str, kind: Any, depth: int = 0) -> str | None:
    """Return an SQL expression whose JSON by DuckDB is the JSON value that ``to_json_value`` returns for ``value``.

    Args:
        value: an SQL expression.
        kind: its type in DuckDB.
        depth: the number of lists around it.

    Returns:
        ``value`` itself if nothing is to be converted. None if only ``to_json_value`` converts this type: dates,
        decimals, bytes, maps and all other types that are not numbers, texts, lists and structs of these.
    """
    if str(kind) in SAME_TYPES:
        return value
    if kind.id in FLOATS:
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if kind.id == "list":
        item = f"item_{depth}"
        inner = json_expression(item, kind.children[0][1], depth + 1)
        return value if inner == item else inner and f"list_transform({value}, lambda {item}: {inner})"
    if kind.id == "struct":
        return _struct_expression(value, kind.children, depth)
    return None


def _struct_expression(value: str, fields: list[tuple[str, Any]], depth: int) -> str | None:
    parts = [f"struct_extract({value}, {literal(name)})" for name, _ in fields]
    found = [json_expression(part, kind, depth) for part, (_, kind) in zip(parts, fields, strict=True)]
    if None in found or found == parts:
        return None if None in found else value
    packed = ", ".join(f"{identifier(name)} := {inner}" for (name, _), inner in zip(fields, found, strict=True))
    # struct_pack() of a null struct would be a struct of nulls.
    return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({packed}) END"
