"""JSON schemas of answers: their text, their check, their fields, and why a text does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

# Models put JSON between these marks of Markdown.
FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)
MAX_PROBLEM_CHARACTERS = 300


def schema_text(schema: str | Mapping[str, Any]) -> str:
    """Return a JSON schema as JSON text with sorted keys.

    Raises:
        ValueError: if it is not a JSON object, not a valid schema, or refers to another document.
    """
    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(parsed, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"schema: {error}: give a JSON schema") from error
    if not isinstance(parsed, Mapping):
        raise ValueError('schema: give a JSON schema that is an object, such as {"type": "object"}')
    try:
        validator_for(parsed, default=Draft202012Validator).check_schema(json.loads(text))
    except SchemaError as error:
        raise ValueError(f"schema: {error.message}: correct it at {error.json_path}") from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(json.loads(text))).resolver()
    for reference in _references(parsed):
        if not reference.startswith("#"):
            raise ValueError(f"schema: $ref {reference} names another document: write its content into the schema")
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ValueError(f"schema: $ref {reference} names nothing in the schema: correct it") from error
    return text


def json_of(text: str) -> str:
    """Return the JSON of an answer, without white space and the marks of Markdown around it."""
    fenced = FENCED.fullmatch(text)
    return (fenced[1] if fenced else text).strip()


def find_problem(text: str, schema: str) -> str | None:
    """Return why ``text`` is not JSON that the schema describes, in one line; None if it is."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"it is not JSON: {error}"
    misfit = next(iter(_validator(schema).iter_errors(value)), None)
    if misfit is None:
        return None
    line = " ".join(f"{misfit.json_path}: {misfit.message}".split())
    return line if len(line) <= MAX_PROBLEM_CHARACTERS else line[:MAX_PROBLEM_CHARACTERS] + "..."


def fields_of(schema: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the path of each field of an object's schema, in order. An object inside gives the paths of its fields.

    A schema without properties has no fields.
    """
    paths: list[tuple[str, ...]] = []
    properties = schema.get("properties")
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        below = fields_of(inner) if isinstance(inner, Mapping) else []
        paths += [(name, *path) for path in below] or [(name,)]
    return paths


@lru_cache(maxsize=64)
def _validator(schema: str) -> Validator:
    parsed = json.loads(schema)
    # Without a registry, jsonschema would download what a schema refers to.
    return validator_for(parsed, default=Draft202012Validator)(parsed, registry=Registry())


def _references(value: Any) -> Iterator[str]:
    """Yield the texts of all ``$ref`` and ``$dynamicRef`` in a schema."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in ("$ref", "$dynamicRef") and isinstance(inner, str):
                yield inner
            yield from _references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _references(inner)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
