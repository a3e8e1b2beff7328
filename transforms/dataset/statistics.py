"""Statistics of an output for the report: totals, histograms, timelines and tables. Each is a query over the rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .quality import QUALITY_FLAGS
from .reader import Dataset

NUM_BINS = 24
# Spans of a timeline.
MAX_SPANS = 48
# Rows in the tables of the report.
MAX_GROUPS, MAX_OPENINGS = 40, 8
NUM_OPENING_WORDS = 3
TEXT_TASKS = "task IN ('caption', 'query')"
PHASES = ("fetch", "decode", "encode", "generate")


class Totals(NamedTuple):
    """Sums over all rows of all runs.

    ``pictures`` counts distinct pictures. ``twice`` counts rows beyond the first with the same id, in ``data`` and
    ``errors`` together. ``suspicious`` counts rows with a flag. ``usd`` is None if no row has a price.
    """

    pictures: int
    annotations: int
    failures: int
    twice: int
    input_tokens: int
    output_tokens: int
    suspicious: int
    usd: float | None


class Histogram(NamedTuple):
    """Row counts of one number in ``NUM_BINS`` bins of ``width``, from 0. The last bin also counts all larger values.

    ``median``, ``p90`` and ``p99`` are quantiles of the number.
    """

    counts: tuple[int, ...]
    width: float
    median: float
    p90: float
    p99: float


class Timeline(NamedTuple):
    """Row counts of one run in consecutive spans of ``seconds``, from its first row to its last row."""

    run: str
    seconds: float
    annotations: tuple[int, ...]
    failures: tuple[int, ...]


class TaskStatistics(NamedTuple):
    """Rows of one task with one prompt.

    ``mean_tokens`` is of output tokens; 0 without answers. ``mean_places`` is of boxes or points, ``mean_length`` of
    characters; both are None if no answer has such values.
    """

    task: str
    prompt: str
    answers: int
    failures: int
    mean_tokens: float
    mean_places: float | None
    mean_length: float | None


class Bill(NamedTuple):
    """The bill of one backend: ``rows`` with a bill, and how many of these are ``estimated`` by this package.

    ``units`` is a sum of the backend's own units. ``usd`` is None if no row has a price.
    """

    backend: str
    rows: int
    units: float
    usd: float | None
    estimated: int


class RunRows(NamedTuple):
    """Row counts of one run, and the times of its first and last row in milliseconds since 1970."""

    run: str
    annotations: int
    failures: int
    first_ms: int
    last_ms: int


def totals(dataset: Dataset) -> Totals:
    """Return the sums over all rows."""
    (sums,) = dataset.tuples(
        "SELECT count(*), coalesce(sum(input_tokens), 0)::BIGINT, coalesce(sum(output_tokens), 0)::BIGINT FROM answers"
    )
    ((twice,),) = dataset.tuples(f"SELECT count(*) - count(DISTINCT id) FROM ({both('id')})")
    ((usd,),) = dataset.tuples(f"SELECT sum(hosted.usd) FROM ({both('hosted')})")
    ((failures,),) = dataset.tuples("SELECT count(*) FROM failures")
    ((pictures,),) = dataset.tuples(f"SELECT count(DISTINCT key) FROM ({both('key')})")
    ((suspicious,),) = dataset.tuples("SELECT count(*) FROM flags")
    return Totals(pictures, sums[0], failures, twice, sums[1], sums[2], suspicious, usd)


def both(columns: str) -> str:
    """Return the SQL query for own columns of ``data`` and ``errors`` together."""
    return f"SELECT {columns} FROM answers UNION ALL SELECT {columns} FROM failures"


def bills(dataset: Dataset) -> list[Bill]:
    """Return one bill for each hosted backend, over answers and failures, the largest amount first."""
    found = dataset.tuples(
        "SELECT backend, count(*), sum(hosted.units), sum(hosted.usd), count(*) FILTER (WHERE hosted.estimated) "
        f"FROM ({both('backend, hosted')}) WHERE hosted IS NOT NULL "
        "GROUP BY backend ORDER BY sum(hosted.usd) DESC NULLS LAST, backend"
    )
    return [Bill(*row) for row in found]


def flag_counts(dataset: Dataset) -> dict[str, int]:
    """Return the number of rows with each quality flag, also for flags that no row has."""
    found = dict(dataset.tuples("SELECT unnest(_flags) AS kind, count(*) FROM flags GROUP BY kind"))
    return {flag.name: found.get(flag.name, 0) for flag in QUALITY_FLAGS}


def histogram(dataset: Dataset, number: str, where: str = "true") -> Histogram | None:
    """Return the histogram of an SQL expression over ``answers`` with values of 0 or more; None if no row has a value.

    ``where`` is an SQL condition on the rows.
    """
    values = f"(SELECT {number} AS value FROM answers WHERE {where})"
    ((quantiles,),) = dataset.tuples(f"SELECT quantile_cont(value, [0.5, 0.9, 0.99]) FROM {values}")
    if quantiles is None:
        return None
    median, p90, p99 = quantiles
    width = round_up(p99 / (NUM_BINS - 1))
    found = dict(
        dataset.tuples(
            f"SELECT least(floor(value / {width}), {NUM_BINS - 1})::INT AS bin, count(*) FROM {values} "
            "WHERE value IS NOT NULL GROUP BY bin"
        )
    )
    return Histogram(tuple(found.get(bin, 0) for bin in range(NUM_BINS)), width, median, p90, p99)


def round_up(width: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten, at least 1: 3 becomes 5, 11 becomes 20."""
    if width <= 1:
        return 1.0
    power = 10 ** math.floor(math.log10(width))
    return next(float(step * power) for step in (1, 2, 5, 10) if step * power >= width)


def run_rows(dataset: Dataset) -> list[RunRows]:
    """Return the row counts and times of each run, the earliest run first."""
    rows = "SELECT run, created_at, 1 AS good FROM answers UNION ALL SELECT run, created_at, 0 FROM failures"
    found = dataset.tuples(
        f"SELECT run, sum(good)::BIGINT, (count(*) - sum(good))::BIGINT, epoch_ms(min(created_at)), "
        f"epoch_ms(max(created_at)) FROM ({rows}) GROUP BY run ORDER BY min(created_at), run"
    )
    return [RunRows(*row) for row in found]


def timeline(dataset: Dataset, rows: RunRows) -> Timeline:
    """Return the row counts of one run over time, in at most ``MAX_SPANS`` + 1 spans of equal length."""
    seconds = _span((rows.last_ms - rows.first_ms) / 1000 / MAX_SPANS)
    count = int((rows.last_ms - rows.first_ms) / 1000 // seconds) + 1

    def of(table: str) -> tuple[int, ...]:
        query = (
            f"SELECT floor((epoch_ms(created_at) - {rows.first_ms}) / {1000 * seconds})::INT AS span, count(*) "
            f"FROM {table} WHERE run = ? GROUP BY span"
        )
        found = dict(dataset.tuples(query, rows.run))
        return tuple(found.get(span, 0) for span in range(count))

    return Timeline(rows.run, seconds, of("answers"), of("failures"))


def _span(least: float) -> float:
    """Return the shortest round span, in seconds, of at least ``least`` seconds; above 12 hours, whole days."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200)
    return next((float(step) for step in steps if step >= least), 86400.0 * math.ceil(least / 86400))


def phases(dataset: Dataset) -> dict[str, float]:
    """Return the milliseconds that all answered rows took together in each phase of ``PHASES``."""
    sums = ", ".join(f"coalesce(sum(timings.{phase}_ms), 0)" for phase in PHASES)
    return dict(zip(PHASES, dataset.tuples(f"SELECT {sums} FROM answers")[0], strict=True))


def task_statistics(dataset: Dataset) -> list[TaskStatistics]:
    """Return the ``MAX_GROUPS`` pairs of task and prompt that have the most rows, the most frequent first."""
    found = dataset.tuples(
        f"""
        WITH good AS (
            SELECT task, prompt, count(*) AS answers, avg(output_tokens) AS tokens,
                avg(coalesce(len(objects), len(points))) AS places, avg(length(caption)) AS length
            FROM answers GROUP BY task, prompt),
        bad AS (SELECT task, prompt, count(*) AS failures FROM failures GROUP BY task, prompt)
        SELECT task, prompt, coalesce(answers, 0), coalesce(failures, 0), coalesce(tokens, 0), places, length
        FROM good FULL JOIN bad USING (task, prompt)
        ORDER BY coalesce(answers, 0) + coalesce(failures, 0) DESC, task, prompt LIMIT {MAX_GROUPS}
        """
    )
    return [TaskStatistics(*row) for row in found]


def common_openings(dataset: Dataset) -> list[tuple[str, int]]:
    """Return the most frequent first three words of captions and answers, in lower case, with their counts.

    Texts of fewer than three words are skipped, and openings that only one text has.
    """
    # The opening is cut off before it is split: splitting whole long texts takes a hundred times longer.
    first = f"regexp_extract(caption, '^\\s*((\\S+\\s+){{0,{NUM_OPENING_WORDS - 1}}}\\S+)', 1)"
    words = f"array_to_string(regexp_split_to_array(lower({first}), '\\s+'), ' ')"
    found: list[Any] = dataset.tuples(
        f"SELECT {words} AS opening, count(*) FROM answers WHERE {TEXT_TASKS} AND trim(caption) LIKE '% % %' "
        f"GROUP BY opening HAVING count(*) > 1 ORDER BY count(*) DESC, opening LIMIT {MAX_OPENINGS}"
    )
    return found
