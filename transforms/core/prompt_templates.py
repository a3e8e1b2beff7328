"""Prompts that name columns: "Is {product} in the picture?" becomes a question for each row of a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from string import Formatter
from typing import Any

from ...models.tasks import Task
from ..io.uris import check_utf8


def named_columns(tasks: Iterable[Task]) -> list[str]:
    """The columns that prompts name, each once.

    Raises:
        ValueError: a brace stands alone, or holds more than a name.
    """
    names = dict.fromkeys(name for task in tasks for _, name in _parse(_text(task)) if name is not None)
    return list(names)


def unescape_braces(task: Task) -> Task:
    """A task that names no column, with its doubled braces as single ones."""
    return _with_text(task, lambda text: "".join(before for before, _ in _parse(text)))


def fill_template(task: Task, row: Mapping[str, Any]) -> Task:
    """The task of one row.

    Raises:
        ValueError: a column is empty or missing there.
    """

    def filled(text: str) -> str:
        return "".join(before + (column_text(row, name) if name is not None else "") for before, name in _parse(text))

    return _with_text(task, filled)


def column_text(row: Mapping[str, Any], column: str) -> str:
    """A column's value in one row, as text.

    Raises:
        ValueError: it is empty, missing or no UTF-8.
    """
    value = row.get(column)
    if value is None or not str(value).strip():
        raise ValueError(f"column {column} is empty")
    return check_utf8(str(value), column)


def column_template(column: str) -> str:
    """The prompt that is nothing but a column.

    Raises:
        ValueError: its name has braces, which can't stand between braces.
    """
    if set(column) & set("{}"):
        raise ValueError(f"column {column!r} can't be a prompt: rename it without braces")
    return "{" + column + "}"


def _parse(text: str) -> Sequence[tuple[str, str | None]]:
    """Text, and the name of the column that follows it."""
    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"prompt {text!r}: {error}; a brace that is none of a column's is doubled") from error
    for _, name, form, conversion in found:
        if name is not None and (not name or form or conversion):
            raise ValueError(f"prompt {text!r}: between braces stands the name of a column, nothing else")
    return [(before, name) for before, name, _, _ in found]


def _text(task: Task) -> str:
    return "".join(str(getattr(task, name)) for name in _text_fields(task))


def _with_text(task: Task, change: Callable[[str], str]) -> Task:
    changed: dict[str, Any] = {name: change(getattr(task, name)) for name in _text_fields(task)}
    return replace(task, **changed) if changed else task


def _text_fields(task: Task) -> list[str]:
    """What a task is asked in words of the user: a question, or the name of a thing."""
    return [field.name for field in fields(task) if field.name in ("question", "object")]
