"""Fill columns of a manifest into prompts, such as "Is {product} in the picture?". ``{{`` and ``}}`` mean braces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from string import Formatter
from typing import Any

from ...models.tasks import Task
from ..io.uris import check_utf8
from .records import RowProblem


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


def fill_templates(
    tasks: Iterable[Task], row: Mapping[str, Any], place: str = "", problem: str = ""
) -> tuple[tuple[Task, ...], tuple[RowProblem | None, ...]]:
    """Return the tasks of a row of the input, each once, with the row's columns filled in, and their problems.

    A task whose prompt can't be filled in is returned as it is, with a problem.

    Args:
        row: the values by column; empty if the row can't be read.
        place: the beginning of each problem's message, such as ``list.csv#4: ``.
        problem: why no task of this row can be asked; "" if only the prompts decide.
    """
    filled: dict[tuple[Task, RowProblem | None], None] = {}
    for task in tasks:
        why = problem
        try:
            task = fill_template(task, row)
            prompt = task.prompt
        except ValueError as error:
            why, prompt = problem or str(error), _known_prompt(task, row)
        filled[task, RowProblem(f"{place}{why}", prompt) if why else None] = None
    problems = tuple(problem for _, problem in filled)
    return tuple(task for task, _ in filled), problems if any(problems) else ()


def _known_prompt(task: Task, row: Mapping[str, Any]) -> str:
    """Return a prompt with the columns of ``row``, without those that are empty; the template if the row is unknown."""
    if not row:
        return task.prompt

    def text(name: str) -> str:
        value = row.get(name)
        return value.decode(errors="replace") if isinstance(value, bytes) else "" if value is None else str(value)

    return "".join(before + (text(name) if name is not None else "") for before, name in _parse(_text(task)))


def lacks_column(task: Task, row: Mapping[str, Any]) -> bool:
    """Return whether a column that the prompt of a task names is missing, None or blank in ``row``."""
    return not all(_text_in(row, name) for name in named_columns([task]))


def column_text(row: Mapping[str, Any], column: str) -> str:
    """Return a column's value in a row as text.

    Raises:
        ValueError: if the value is missing, None, blank or not UTF-8.
    """
    if not (text := _text_in(row, column)):
        raise ValueError(f"column {column} is empty: fill it in")
    return check_utf8(text, column)


def _text_in(row: Mapping[str, Any], column: str) -> str:
    """Return a column's value in a row as text, which may not be UTF-8; "" if it is missing, None or blank."""
    value = row.get(column)
    if isinstance(value, bytes):
        # Some writers of Parquet leave out the mark that bytes are text.
        value = value.decode(errors="surrogateescape")
    return "" if value is None or not str(value).strip() else str(value)


def column_template(column: str) -> str:
    """Return the prompt that consists of a column: ``{column}``.

    Raises:
        ValueError: if the column's name contains a brace.
    """
    if set(column) & set("{}"):
        raise ValueError(f"column {column!r} can't be a prompt: rename it without braces")
    return "{" + column + "}"


# The prompts of a job are few, and each row of a list needs them.
@lru_cache(maxsize=256)
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
    return tuple((before, name and name.strip()) for before, name, _, _ in found)


def _text(task: Task) -> str:
    return "".join(str(getattr(task, name)) for name in _text_fields(task))


def _with_text(task: Task, change: Callable[[str], str]) -> Task:
    changed: dict[str, Any] = {name: change(getattr(task, name)) for name in _text_fields(task)}
    return replace(task, **changed) if changed else task


def _text_fields(task: Task) -> list[str]:
    """Return the names of a task's fields that the user words: ``question`` or ``object``."""
    return [field.name for field in fields(task) if field.name in ("question", "object")]
