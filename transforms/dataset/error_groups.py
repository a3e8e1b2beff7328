"""The failures of an output by message, for the report: groups with examples, and some pictures of each group."""

from __future__ import annotations

from typing import NamedTuple

from .reader import Dataset

# Rows in the tables of the report.
MAX_GROUPS, MAX_EXAMPLES = 40, 3
# A message without the names of its picture and with 0 in place of each number. DuckDB removes no empty text.
KIND = (
    "regexp_replace(replace(replace(replace(message, uri, ''), filename, ''), regexp_extract(uri, '[^/]*$'), ''), "
    r"'\d+', '0', 'g')"
)


class ErrorGroup(NamedTuple):
    """Failures of one ``error`` class at one ``stage`` whose messages differ in numbers and names of pictures only.

    ``message`` is that of one of them. ``retryable`` counts the retryable ones. An example is (filename, task, prompt,
    message).
    """

    message: str
    stage: str
    error: str
    rows: int
    pictures: int
    retryable: int
    examples: tuple[tuple[str, str, str, str], ...]


def error_groups(dataset: Dataset) -> list[ErrorGroup]:
    """Return the ``MAX_GROUPS`` groups with the most failures, each with up to ``MAX_EXAMPLES`` failures."""
    groups = dataset.tuples(
        f"SELECT {KIND} AS kind, arg_min(message, id), stage, error, count(*), count(DISTINCT key), "
        "count(*) FILTER (WHERE retryable) FROM failures GROUP BY kind, stage, error "
        f"ORDER BY count(*) DESC, stage, error, kind LIMIT {MAX_GROUPS}"
    )
    examples = (
        f"SELECT filename, task, prompt, message FROM failures WHERE {KIND} = ? AND stage = ? AND error = ? "
        "ORDER BY id LIMIT ?"
    )
    found = []
    for kind, message, stage, error, rows, pictures, retryable in groups:
        shown = tuple(dataset.tuples(examples, kind, stage, error, MAX_EXAMPLES))
        found.append(ErrorGroup(message, stage, error, rows, pictures, retryable, shown))
    return found


def choose_failed(dataset: Dataset, size: int) -> list[str]:
    """Return the keys of up to ``size`` pictures with failures, of each group of messages about equally many.

    The same rows give the same keys.
    """
    ranked = f"SELECT key, min({KIND}) AS kind FROM failures GROUP BY key"
    return [
        key
        for (key,) in dataset.tuples(
            f"SELECT key FROM ({ranked}) ORDER BY row_number() OVER (PARTITION BY kind ORDER BY key), kind LIMIT ?",
            size,
        )
    ]
