"""Fill columns of a manifest into prompts, such as "Is {product} in the picture?". ``{{`` and ``}}`` mean braces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from string import Formatter
from typing import Any

from ...models.tasks import Task
from ..io.uris import check_utf8


def named_columns(tasks: Iterable[Task]) -> list[str]:
    """Return the columns that the prompts of tasks name in braces, each once, in the order of the prompts.

    Raises:
        ValueError: if a brace is single, or braces contain anything but a column's name.
    """
    names = dict.fromkeys(name for task in tasks for _, name in _parse(_text(task)) if name is not None)
    return list(names)


def unescape_braces(task: Task) -> Task:
    """Return a task that names no column with ``{{`` and ``}}`` in its prompt as single braces."""
    return _with_text(task, lambda text: "".join(before for before, _ in _parse(text)))


def fill_template(task: Task, row: Mapping[str, Any]) -> Task:
    """Return the task with the columns of ``row`` filled into its prompt.

    Raises:
        ValueError: if a column that the prompt names is missing, blank or not UTF-8 in ``row``.
    """

    def filled(text: str) -> str:
        return "".join(before + (column_text(row, name) if name is not None else "") for before, name in _parse(text))

    return _with_text(task, filled)


def column_text(row: Mapping[str, Any], column: str) -> str:
    """Return a column's value in a row as text.

    Raises:
        ValueError: if the value is missing, None, blank or not UTF-8.
    """
    value = row.get(column)
    if isinstance(value, bytes):
        # Some writers of Parquet leave out the mark that bytes are text.
        value = value.decode(errors="surrogateescape")
    if value is None or not str(value).strip():
        raise ValueError(f"column {column} is empty: fill it in")
    return check_utf8(str(value), column)


def column_template(column: str) -> str:
    """Return the prompt that consists of a column: ``{column}``.

    Raises:
        ValueError: if the column's name contains a brace.
    """
    if set(column) & set("{}"):
        raise ValueError(f"column {column!r} can't be a prompt: rename it without braces")
    return "{" + column + "}"


def _parse(text: str) -> Sequence[tuple[str, str | None]]:
    """Return pairs of literal text and the column named after it without spaces around, None if there is none."""
    cure = "write {{ and }} for a brace that is not around a column"
    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"prompt {text!r}: {error}; {cure}") from error
    for _, name, format_spec, conversion in found:
        if name is not None and (not name.strip() or format_spec or conversion):
            raise ValueError(f"prompt {text!r}: write only the name of a column between braces, and {cure}")
    return [(before, name and name.strip()) for before, name, _, _ in found]


def _text(task: Task) -> str:
    return "".join(str(getattr(task, name)) for name in _text_fields(task))


def _with_text(task: Task, change: Callable[[str], str]) -> Task:
    changed: dict[str, Any] = {name: change(getattr(task, name)) for name in _text_fields(task)}
    return replace(task, **changed) if changed else task


def _text_fields(task: Task) -> list[str]:
    """Return the names of a task's fields that the user words: ``question`` or ``object``."""
    return [field.name for field in fields(task) if field.name in ("question", "object")]
