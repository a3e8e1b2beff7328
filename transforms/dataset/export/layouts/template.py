"""Templates for the texts of sidecar files, such as ``{caption}, {tags}``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from ...reader import identifier, literal
from ..wide import Selection

CAPTION = "caption"
_SPACES = re.compile(r"\s+")


def parse_fields(template: str) -> tuple[str, ...]:
    """Return the names of the fields of a template, each once.

    Raises:
        ValueError: if the template has no field, a brace is open, or a field has more than a name.
    """
    example = "give fields in braces, such as '{caption}, {tags}', and write {{ for a brace"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"--template {template}: {error}; {example}") from error
    fields = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    if not fields or any(not name or spec or conversion for name, spec, conversion in fields):
        raise ValueError(f"--template {template}: no field, or a field that is not a name alone; {example}")
    return tuple(dict.fromkeys(name for name, _, _ in fields))


def field_columns(selection: Selection, fields: Sequence[str]) -> dict[str, str]:
    """Return for each field except ``caption`` an SQL expression over the rows of a picture.

    A field is a column of the manifest, or the column of a caption or a query in the wide table, such as
    ``caption_short``.

    Raises:
        ValueError: if a field is neither.
    """
    known = {name: f"any_value({identifier(name)})" for name in selection.manifest_columns()}
    if set(fields) - set(known) - {CAPTION}:
        for task, prompt, column, _ in selection.task_columns():
            if task in ("caption", "query"):
                asked = f"task = {literal(task)} AND prompt = {literal(prompt)}"
                known[column] = f"any_value(caption) FILTER (WHERE {asked})"
    if missing := [name for name in fields if name not in known and name != CAPTION]:
        names = ", ".join([CAPTION, *known])
        raise ValueError(f"--template: the rows have no text for {{{missing[0]}}}; the fields are {names}")
    return {name: known[name] for name in fields if name != CAPTION}


def fill(template: str, values: Mapping[str, Any]) -> str | None:
    """Return a template with the values of its fields, on one line; None if a value is missing or empty.

    The items of a list are separated by commas.
    """
    texts = {name: one_line(values.get(name)) for name in parse_fields(template)}
    if not all(texts.values()):
        return None
    return "".join(part + (texts[name] if name is not None else "") for part, name, _, _ in Formatter().parse(template))


def one_line(value: Any) -> str:
    """Return a value as a text without line breaks; an empty text for None. List items are separated by commas."""
    items = value if isinstance(value, list) else [value]
    return ", ".join(_SPACES.sub(" ", str(item)).strip() for item in items if item is not None)
