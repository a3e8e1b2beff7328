"""Select the rows to export, and turn them into a wide table with a row for each picture and a column for each task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import duckdb

from ....models.tasks import Query
from ...core.row_schema import ANNOTATION_SCHEMA
from ...output.run_record import read_records
from ..reader import Dataset, identifier, literal
from .json_columns.first_rows import choose_first
from .json_columns.lines import json_lines
from .json_columns.structured import FieldColumn, field_columns, field_values, find_schema, schemas_of
from .json_columns.values import to_json_value
from .layouts.splits import ONE_SPLIT, Splits

PICTURE_COLUMNS = ("key", "filename", "uri", "sha256", "width", "height")
# Columns of ``data/`` that hold the answer; those of the other tasks are in ``caption``.
ANSWER_COLUMNS = {"detect": "objects", "point": "points"}
# Above this number, prompts differ from row to row, and a table with a column for each is useless.
MAX_TASKS = 200
MAX_SLUG_CHARACTERS = 48
# The archive or Parquet file that contains a picture, in the ``uri`` of the picture's row.
CONTAINER = r"^(.*?[.](?:tar(?:[.][a-z0-9]+)?|tgz|tbz2|txz|parquet|arrow|feather))#"
ORDER = f"regexp_extract(uri, '{CONTAINER}', 1, 'i'), filename, key"


class TaskColumn(NamedTuple):
    """A task with its prompt, the name of its column in the wide table, and the columns of its answers' fields."""

    task: str
    prompt: str
    column: str
    fields: tuple[FieldColumn, ...] = ()


class Selection:
    """The rows to export: for each task on each picture, the latest row that meets the condition.

    Several rows of a task differ in model or sampling, or in the manifest's columns. ``latest`` is the selection as an
    SQL subquery, and ``rows`` is the same with lists in ``listed_columns``. ``matching`` is the number of rows before
    the latest of each task was taken. All other numbers are counted when they are first asked for.

    Args:
        where: an SQL expression over the columns of ``data/`` and ``_flags``.
        drop_suspicious: leave out rows that have a quality flag.

    Raises:
        ValueError: if ``where`` is not one valid SQL expression, or no row meets the condition.
    """

    def __init__(self, dataset: Dataset, where: str = "true", *, drop_suspicious: bool = False) -> None:
        self.dataset, self._where = dataset, where
        kept = " AND len(_flags) = 0" if drop_suspicious else ""
        # On a line of its own, because an SQL comment at its end would hide what follows.
        self._matching = f"SELECT * FROM flagged WHERE (\n{where}\n){kept}"
        # Rows of the input that share a request have the same answer in any order of time, so their names decide.
        order = f"list_position({_runs(dataset)}, run) DESC, filename, created_at DESC, id"
        first = f"row_number() OVER (PARTITION BY key, task, prompt ORDER BY {order}) = 1"
        self.latest = f"({self._matching} QUALIFY {first})"
        self.count_again()
        # The window takes most of the time of a query, and nearly always each task has one row.
        self._is_distinct = self._num_distinct("key, task, prompt") == self.matching
        if self._is_distinct:
            self.latest = f"({self._matching})"

    def count_again(self) -> None:
        """Count ``matching``: at first, and after rows were left out of the view ``flagged``.

        Raises:
            ValueError: if no row meets the condition.
        """
        self.matching = _checked_count(self.dataset, self._matching, self._where)

    @cached_property
    def rows(self) -> str:
        """The selection as an SQL subquery, with lists in ``listed_columns``."""
        return f"({self._with_lists()})" if self.listed_columns else self.latest

    @property
    def answers(self) -> int:
        """The number of selected rows."""
        return self._counts[0]

    @property
    def pictures(self) -> int:
        """The number of distinct pictures of the selected rows."""
        return self._counts[1]

    @property
    def older(self) -> int:
        """The number of matching rows that are left out because the same task has a later answer.

        A row whose values are in the lists of ``listed_columns`` is not left out.
        """
        return self._counts[3] - self._counts[2]

    @property
    def repeated(self) -> int:
        """The number of matching rows that are left out because they equal another one: answer, run and columns.

        They come from equal rows of a manifest, which share one request.
        """
        return self.matching - self._counts[3]

    @cached_property
    def _counts(self) -> tuple[int, int, int, int]:
        """The number of selected rows, of their pictures, of distinct questions, and of distinct answers to these."""
        (counts,) = self.dataset.tuples(f"SELECT count(*), count(DISTINCT key) FROM {self.latest}")
        if self._is_distinct:
            return (*counts, self.matching, self.matching)
        question = ", ".join(["key, task, prompt", *map(identifier, self.listed_columns)])
        return (*counts, self._num_distinct(question), self._num_distinct(f"{question}, run, caption, objects, points"))

    def _num_distinct(self, columns: str) -> int:
        query = f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM ({self._matching}))"
        return int(self.dataset.tuples(query)[0][0])

    @cached_property
    def listed_columns(self) -> list[str]:
        """The manifest's columns in which rows of one picture differ.

        In ``rows`` each of them is a list with the values of all rows of the picture, in one order for all of these
        columns.
        """
        columns = self.manifest_columns()
        if not columns:
            return []
        # count() leaves out nulls, which differ from all other values.
        values = (f"count(DISTINCT {name}) + (count({name}) < count(*))::INT" for name in map(identifier, columns))
        counts = ", ".join(f"{count} AS n{index}" for index, count in enumerate(values))
        most = ", ".join(f"max(n{index})" for index in range(len(columns)))
        (found,) = self.dataset.tuples(f"SELECT {most} FROM (SELECT {counts} FROM ({self._matching}) GROUP BY key)")
        return [column for column, num_values in zip(columns, found, strict=True) if num_values > 1]

    def _with_lists(self) -> str:
        """Return the query ``latest`` with lists of all matching values in place of the columns that differ."""
        names = ", ".join(map(identifier, self.listed_columns))
        lists = ", ".join(f"list({name} ORDER BY {names}) AS {name}" for name in map(identifier, self.listed_columns))
        values = f"SELECT key, {lists} FROM (SELECT DISTINCT key, {names} FROM ({self._matching})) GROUP BY key"
        return f"SELECT * FROM (SELECT * EXCLUDE ({names}) FROM {self.latest}) JOIN ({values}) USING (key)"

    @cached_property
    def answers_to(self) -> Counter[str]:
        """Return the number of selected rows for each kind of task, such as ``{"caption": 4}``; 0 for other kinds."""
        return Counter(dict(self.dataset.tuples(f"SELECT task, count(*) FROM {self.rows} GROUP BY task")))

    def task_columns(self) -> list[TaskColumn]:
        """Return the tasks of the selected rows, sorted, each with a column name that is unique in the wide table.

        Raises:
            ValueError: if there are more than ``MAX_TASKS``.
        """
        query = f"SELECT DISTINCT task, prompt FROM {self.rows} ORDER BY task, prompt LIMIT {MAX_TASKS + 1}"
        found = self.dataset.tuples(query)
        if len(found) > MAX_TASKS:
            raise ValueError(f"more than {MAX_TASKS} tasks need too many columns: choose some with --where")
        taken = {column.casefold() for column in (*PICTURE_COLUMNS, *self.manifest_columns())}
        columns = [TaskColumn(task, prompt, _column(task, prompt, taken)) for task, prompt in found]
        return [column._replace(fields=self._fields(column, taken)) for column in columns]

    def _fields(self, column: TaskColumn, taken: set[str]) -> tuple[FieldColumn, ...]:
        schema = find_schema(column.prompt, self._schemas) if column.task == Query.name else None
        return field_columns(schema, lambda name: _free(f"{column.column}_{name}", taken)) if schema else ()

    @cached_property
    def _schemas(self) -> dict[str, dict[str, Any]]:
        return schemas_of(read_records(self.dataset.output))

    def manifest_columns(self) -> list[str]:
        """Return the names of the columns that came from a manifest."""
        return [column for column in self.dataset.columns("data") if column not in ANNOTATION_SCHEMA.names]

    def wide(
        self, columns: Sequence[TaskColumn], extra: Sequence[str] = (), first: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Yield a dict of JSON values for each picture: ``PICTURE_COLUMNS``, the tasks, and the manifest's columns.

        After these come the fields of answers with a JSON schema. ``extra`` names more columns of the picture. A task
        without an answer is None, and a field that an answer lacks is None. The pictures with the keys
        ``first`` come first, in this order. Then come pictures in files of their own, by file name. Those in archives
        and Parquet files follow, grouped by container, so that the fetcher reads each container once.
        """
        for row in self.dataset.rows(f"SELECT * FROM ({self._wide_query(columns, extra)}) ORDER BY {_order(first)}"):
            values = {column: to_json_value(value) for column, value in row.items()}
            for column in columns:
                values |= field_values(values[column.column], column.fields) if column.fields else {}
            yield values

    def wide_lines(
        self, columns: Sequence[TaskColumn], first: Sequence[str] = ()
    ) -> Iterator[tuple[dict[str, str], str]]:
        """Yield ``key`` and ``sha256`` of each picture, and its dict of ``wide`` as a line; see ``json_lines``."""
        fields = {column.column: column.fields for column in columns if column.fields}
        return json_lines(self.dataset, self._wide_query(columns), _order(first), fields)

    def first_keys(self, columns: Sequence[TaskColumn], copies: int = 1, splits: Splits = ONE_SPLIT) -> list[str]:
        """Return the keys for ``first`` of ``wide`` with which readers infer the right types; see ``choose_first``.

        Each split is a file or folder of its own, and has such keys.
        """
        names = [*(column.column for column in columns), *self.manifest_columns()]
        rows = self._wide_query(columns)
        parts = [f"SELECT * FROM ({rows}) WHERE {splits.sql()} = {literal(name)}" for name in splits.names]
        queries = parts if len(parts) > 1 else [rows]
        return [key for query in queries for key in choose_first(self.dataset, query, ORDER, names, copies)]

    def wide_columns(self, columns: Sequence[TaskColumn]) -> list[str]:
        """Return the names of the columns of ``wide`` without ``extra``."""
        fields = [field.column for column in columns for field in column.fields]
        return [*PICTURE_COLUMNS, *(column.column for column in columns), *self.manifest_columns(), *fields]

    def _wide_query(self, columns: Sequence[TaskColumn], extra: Sequence[str] = ()) -> str:
        answers = [
            f"any_value({ANSWER_COLUMNS.get(task, 'caption')}) FILTER (WHERE task = {literal(task)} AND "
            f"prompt = {literal(prompt)}) AS {identifier(column)}"
            for task, prompt, column, _ in columns
        ]
        # All from one row: a picture has two byte ranges if its archive was repacked between two runs.
        picture = [f"arg_max({column}, created_at) AS {column}" for column in (*PICTURE_COLUMNS[2:], *extra)]
        kept = [f"any_value({identifier(column)}) AS {identifier(column)}" for column in self.manifest_columns()]
        # min(), because two runs with different roots give the same picture different file names.
        chosen = ", ".join(["key", "min(filename) AS filename", *picture, *answers, *kept])
        return f"SELECT {chosen} FROM {self.rows} GROUP BY key"


def _order(first: Sequence[str]) -> str:
    """Return the SQL order of the pictures in ``wide``."""
    lead = f"coalesce(list_position([{', '.join(map(literal, first))}], key), {len(first) + 1}), " if first else ""
    return lead + ORDER


def _runs(dataset: Dataset) -> str:
    """Return the runs of an output as an SQL list, in the order of their last answers."""
    runs = dataset.tuples("SELECT run FROM answers GROUP BY run ORDER BY max(created_at), run")
    return f"[{', '.join(literal(run) for (run,) in runs)}]"


def _checked_count(dataset: Dataset, rows: str, where: str) -> int:
    if not where.strip():
        raise ValueError("--where is empty: give a condition in SQL, or leave the option out")
    try:
        # Parsed alone first: "1) OR (1" is invalid, but would be valid inside the parentheses of the query.
        if len(duckdb.extract_statements(f"SELECT 1 WHERE\n{where}")) != 1:
            raise ValueError(f"--where {where}: give one expression")
        ((count,),) = dataset.tuples(f"SELECT count(*) FROM ({rows})")
    except duckdb.Error as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"--where {where}: {problem}{_hint_at_errors(dataset, problem)}") from error
    if not count:
        raise ValueError(_why_empty(dataset, where))
    return int(count)


def _why_empty(dataset: Dataset, where: str) -> str:
    """Return the message for a selection without rows."""
    ((answers, failures),) = dataset.tuples("SELECT (SELECT count(*) FROM data), (SELECT count(*) FROM errors)")
    if not answers:
        return (
            f"{dataset.output} has no answers, and {failures} rows in errors/: export writes answers only; run "
            f"annotate again with --retry-errors, or read the failures from {dataset.path('errors', '*.parquet')}"
        )
    ((meeting,),) = dataset.tuples(f"SELECT count(*) FROM flagged WHERE (\n{where}\n)")
    if meeting:
        return f"no row is left to export: all {meeting} chosen rows have a flag; leave out --drop-suspicious"
    return f"no row is left to export: none of {answers} rows meets --where {where}; give another condition"


def _hint_at_errors(dataset: Dataset, problem: str) -> str:
    """Return a hint if an error of DuckDB complains about a column that only ``errors`` has; else an empty text."""
    missing = re.search(r'column "([^"]+)"', problem, re.IGNORECASE)
    if not missing or missing[1].casefold() not in dataset.columns("errors"):
        return ""
    place = dataset.path("errors", "*.parquet")
    return f"; {missing[1]} is a column of errors/, and export writes rows of data/ only: read {place} with DuckDB"


def _column(task: str, prompt: str, taken: set[str]) -> str:
    slug = re.sub(r"\W+", "_", prompt.casefold())[:MAX_SLUG_CHARACTERS].strip("_")
    return _free(f"{task}_{slug}" if slug else task, taken)


def _free(stem: str, taken: set[str]) -> str:
    """Return ``stem``, or with a number after it if a column has that name. Add the name to ``taken``."""
    column, number = stem, 1
    while column.casefold() in taken:
        number += 1
        column = f"{stem}_{number}"
    taken.add(column.casefold())
    return column
