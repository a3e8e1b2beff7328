"""The rows of an output that are to be exported, and the same as a wide table: a picture a row, a task a column."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import duckdb

from ...core.records import ANNOTATION_SCHEMA
from ..reader import Dataset, literal, name

PICTURE_COLUMNS = ("key", "filename", "uri", "sha256", "width", "height")
ANSWERS = {"detect": "objects", "point": "points"}
# Beyond these nobody reads a table: prompts that differ from row to row.
MAX_TASKS = 200
SLUG_CHARACTERS = 48
# The file inside of which a picture lies.
INSIDE = r"^(.*?[.](?:tar(?:[.][a-z0-9]+)?|tgz|tbz2|txz|parquet))#"


class Asked(NamedTuple):
    """One task with its prompt, and the name of its column."""

    task: str
    prompt: str
    column: str


class Selection:
    """The rows that a condition leaves, one for each task on each picture: where several answers are there, by another
    model or sampling, the latest.

    ``where`` is an SQL expression over the columns of ``data/`` and over ``_flags``.

    Raises:
        ValueError: the condition is none, or leaves no row.
    """

    def __init__(self, dataset: Dataset, where: str = "true", *, drop_suspicious: bool = False) -> None:
        self.dataset = dataset
        kept = " AND len(_flags) = 0" if drop_suspicious else ""
        # A line of its own, so that a comment in it ends where it ends.
        rows = f"SELECT * FROM flagged WHERE (\n{where}\n){kept}"
        self.matching = _checked_count(dataset, rows, where)
        self.rows = (
            f"({rows} QUALIFY row_number() OVER (PARTITION BY key, task, prompt ORDER BY created_at DESC, id) = 1)"
        )
        ((self.answers, self.pictures),) = dataset.tuples(f"SELECT count(*), count(DISTINCT key) FROM {self.rows}")

    @property
    def older(self) -> int:
        """Rows left out for a later answer to the same question."""
        return self.matching - self.answers

    @cached_property
    def answers_to(self) -> Counter[str]:
        """How many answers there are to tasks of each kind."""
        return Counter(dict(self.dataset.tuples(f"SELECT task, count(*) FROM {self.rows} GROUP BY task")))

    def asked(self) -> list[Asked]:
        """All tasks of these rows, each with a column's name that no other has.

        Raises:
            ValueError: there are more than ``MAX_TASKS``.
        """
        query = f"SELECT DISTINCT task, prompt FROM {self.rows} ORDER BY task, prompt LIMIT {MAX_TASKS + 1}"
        found = self.dataset.tuples(query)
        if len(found) > MAX_TASKS:
            raise ValueError(f"more than {MAX_TASKS} tasks are too many columns: choose some with --where")
        taken = {column.casefold() for column in (*PICTURE_COLUMNS, *self.kept())}
        return [Asked(task, prompt, _column(task, prompt, taken)) for task, prompt in found]

    def kept(self) -> list[str]:
        """The columns that came from a manifest."""
        return [column for column in self.dataset.columns("data") if column not in ANNOTATION_SCHEMA.names]

    def wide(self, asked: Sequence[Asked], extra: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """A row for each picture: the picture, an answer for each task (None where there is none), and what a manifest
        said. By file name; those inside of archives and Parquet files by these, behind the others. Values are such as
        JSON has. ``extra`` names more columns of the picture."""
        answers = [
            f"any_value({ANSWERS.get(task, 'caption')}) FILTER (WHERE task = {literal(task)} AND "
            f"prompt = {literal(prompt)}) AS {name(column)}"
            for task, prompt, column in asked
        ]
        # All from one row: in an archive that was repacked between two runs a picture has two byte ranges.
        picture = [f"arg_max({column}, created_at) AS {column}" for column in (*PICTURE_COLUMNS[2:], *extra)]
        kept = [f"any_value({name(column)}) AS {name(column)}" for column in self.kept()]
        # Another run may have found the same picture below another root.
        chosen = ", ".join(["key", "min(filename) AS filename", *picture, *answers, *kept])
        # So that those who fetch have read one such file before the next begins.
        home = f"regexp_extract(any_value(uri), '{INSIDE}', 1, 'i')"
        order = f"GROUP BY key ORDER BY {home}, filename, key"
        for row in self.dataset.rows(f"SELECT {chosen} FROM {self.rows} {order}"):
            yield {column: plain(value) for column, value in row.items()}


def _checked_count(dataset: Dataset, rows: str, where: str) -> int:
    if not where.strip():
        raise ValueError("--where is empty: give a condition in SQL, or leave it out")
    try:
        # By itself first: in brackets, what closes and opens them would mean something else.
        if len(duckdb.extract_statements(f"SELECT 1 WHERE\n{where}")) != 1:
            raise ValueError(f"--where {where}: give one expression")
        ((count,),) = dataset.tuples(f"SELECT count(*) FROM ({rows})")
    except duckdb.Error as error:
        raise ValueError(f"--where {where}: {str(error).splitlines()[0]}") from error
    if not count:
        raise ValueError("no row is left to export: loosen --where")
    return int(count)


def _column(task: str, prompt: str, taken: set[str]) -> str:
    slug = re.sub(r"\W+", "_", prompt.casefold())[:SLUG_CHARACTERS].strip("_")
    column = stem = f"{task}_{slug}" if slug else task
    number = 1
    while column.casefold() in taken:
        number += 1
        column = f"{stem}_{number}"
    taken.add(column.casefold())
    return column


def plain(value: Any) -> Any:
    """A value as JSON has it: no dates, no bytes, no number that is none."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)
