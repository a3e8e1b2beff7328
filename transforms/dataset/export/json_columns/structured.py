"""Columns of an export for the fields of answers that fit a JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .....models.structured.schema import fields_of


class FieldColumn(NamedTuple):
    """A field of an answer: ``path`` are the names from the outer object to the field; ``column`` is its column."""

    path: tuple[str, ...]
    column: str


def schemas_of(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each prompt of a query, of the records of runs. The schema of the latest run counts."""
    schemas: dict[str, dict[str, Any]] = {}
    for record in records:
        for task in record.get("tasks") or ():
            if isinstance(task, dict) and isinstance(task.get("schema"), dict):
                schemas[str(task.get("prompt"))] = task["schema"]
    return schemas


def find_schema(prompt: str, schemas: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the schema of a prompt, or of a prompt with names of columns in braces that ``prompt`` is made of."""
    if prompt in schemas:
        return schemas[prompt]
    for template, schema in schemas.items():
        if re.fullmatch(re.sub(r"\\\{.*?\\\}", ".*", re.escape(template)), prompt, re.DOTALL):
            return schema
    return None


def field_columns(schema: Mapping[str, Any], unique: Callable[[str], str]) -> tuple[FieldColumn, ...]:
    """Return a column for each field of a schema. ``unique``: returns a free name for a column's wanted name."""
    return tuple(FieldColumn(path, unique("_".join(path))) for path in fields_of(schema))


def field_values(text: str | None, columns: Sequence[FieldColumn]) -> dict[str, Any]:
    """Return the value of each column in an answer; None for a field that the answer does not have."""
    try:
        answer = json.loads(text) if text else None
    except ValueError:
        # An older row with the same prompt, from a run without the schema.
        answer = None
    values: dict[str, Any] = {}
    for path, column in columns:
        value = answer
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        values[column] = value
    return values
