"""What an output amounts to, in figures: sums, spreads and tables, each one query over its rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .quality import QUALITY_FLAGS
from .reader import Dataset

BINS = 24
MOMENTS = 48
GROUPS, EXAMPLES, OPENINGS = 40, 3, 8
OPENING_WORDS = 3
TEXT_TASKS = "task IN ('caption', 'query')"
PHASES = ("fetch", "decode", "encode", "generate")


class Totals(NamedTuple):
    """Over all rows of all runs. ``pictures`` are different ones; ``twice`` are rows whose id is there already."""

    pictures: int
    annotations: int
    failures: int
    twice: int
    input_tokens: int
    output_tokens: int
    suspicious: int
    usd: float | None


class Histogram(NamedTuple):
    """How one number spreads over rows: counts in bins of ``width`` from 0, the last of them open to the right."""

    counts: tuple[int, ...]
    width: float
    median: float
    p90: float
    p99: float


class Timeline(NamedTuple):
    """Rows of one run in equal spans of ``seconds``, from its first row to its last."""

    run: str
    seconds: float
    annotations: tuple[int, ...]
    failures: tuple[int, ...]


class Asked(NamedTuple):
    """One task: how often it was answered and not, and what the answers are like."""

    task: str
    prompt: str
    answers: int
    failures: int
    mean_tokens: float
    mean_places: float | None
    mean_length: float | None


class ErrorGroup(NamedTuple):
    """Failures of one class at one stage; examples are (filename, task, prompt, message)."""

    stage: str
    error: str
    rows: int
    pictures: int
    retryable: int
    examples: tuple[tuple[str, str, str, str], ...]


class Bill(NamedTuple):
    """What one backend billed: for so many rows, of which some by an estimate of ours; no dollars where no price."""

    backend: str
    rows: int
    units: float
    usd: float | None
    estimated: int


class RunRows(NamedTuple):
    """The rows of one run that the output holds, and when they were made, in milliseconds since 1970."""

    run: str
    annotations: int
    failures: int
    first_ms: int
    last_ms: int


def totals(dataset: Dataset) -> Totals:
    """The sums over all rows."""
    (sums,) = dataset.tuples(
        "SELECT count(*), coalesce(sum(input_tokens), 0)::BIGINT, coalesce(sum(output_tokens), 0)::BIGINT FROM data"
    )
    ((twice,),) = dataset.tuples(f"SELECT count(*) - count(DISTINCT id) FROM ({both('id')})")
    ((usd,),) = dataset.tuples(f"SELECT sum(hosted.usd) FROM ({both('hosted')})")
    ((failures,),) = dataset.tuples("SELECT count(*) FROM errors")
    ((pictures,),) = dataset.tuples(f"SELECT count(DISTINCT key) FROM ({both('key')})")
    ((suspicious,),) = dataset.tuples("SELECT count(*) FROM flags")
    return Totals(pictures, sums[0], failures, twice, sums[1], sums[2], suspicious, usd)


def both(columns: str) -> str:
    """The query for columns that rows of both kinds have."""
    return f"SELECT {columns} FROM data UNION ALL SELECT {columns} FROM errors"


def bills(dataset: Dataset) -> list[Bill]:
    """What hosted APIs billed for answers and failures alike, the dearest first."""
    found = dataset.tuples(
        "SELECT backend, count(*), sum(hosted.units), sum(hosted.usd), count(*) FILTER (WHERE hosted.estimated) "
        f"FROM ({both('backend, hosted')}) WHERE hosted IS NOT NULL "
        "GROUP BY backend ORDER BY sum(hosted.usd) DESC NULLS LAST, backend"
    )
    return [Bill(*row) for row in found]


def flag_counts(dataset: Dataset) -> dict[str, int]:
    """How many rows are suspicious of what, each kind named, also those of none."""
    found = dict(dataset.tuples("SELECT unnest(_flags) AS kind, count(*) FROM flags GROUP BY kind"))
    return {suspicion.name: found.get(suspicion.name, 0) for suspicion in QUALITY_FLAGS}


def histogram(dataset: Dataset, number: str, where: str = "true") -> Histogram | None:
    """The spread of a number of ``data``, an SQL expression of values from 0; None where there is no row."""
    values = f"(SELECT {number} AS value FROM data WHERE {where})"
    ((quantiles,),) = dataset.tuples(f"SELECT quantile_cont(value, [0.5, 0.9, 0.99]) FROM {values}")
    if quantiles is None:
        return None
    median, p90, p99 = quantiles
    width = round_up(p99 / (BINS - 1))
    found = dict(
        dataset.tuples(
            f"SELECT least(floor(value / {width}), {BINS - 1})::INT AS bin, count(*) FROM {values} "
            "WHERE value IS NOT NULL GROUP BY bin"
        )
    )
    return Histogram(tuple(found.get(bin, 0) for bin in range(BINS)), width, median, p90, p99)


def round_up(width: float) -> float:
    """The next of 1, 2 and 5 times a power of ten, 1 at least: a width that people can count in."""
    if width <= 1:
        return 1.0
    power = 10 ** math.floor(math.log10(width))
    return next(float(step * power) for step in (1, 2, 5, 10) if step * power >= width)


def run_rows(dataset: Dataset) -> list[RunRows]:
    """The rows of each run, the earliest run first."""
    rows = "SELECT run, created_at, 1 AS good FROM data UNION ALL SELECT run, created_at, 0 FROM errors"
    found = dataset.tuples(
        f"SELECT run, sum(good)::BIGINT, (count(*) - sum(good))::BIGINT, epoch_ms(min(created_at)), "
        f"epoch_ms(max(created_at)) FROM ({rows}) GROUP BY run ORDER BY min(created_at), run"
    )
    return [RunRows(*row) for row in found]


def timeline(dataset: Dataset, rows: RunRows) -> Timeline:
    """The pace of one run over its time."""
    seconds = _span((rows.last_ms - rows.first_ms) / 1000 / MOMENTS)
    count = int((rows.last_ms - rows.first_ms) / 1000 // seconds) + 1

    def of(table: str) -> tuple[int, ...]:
        query = (
            f"SELECT floor((epoch_ms(created_at) - {rows.first_ms}) / {1000 * seconds})::INT AS span, count(*) "
            f"FROM {table} WHERE run = ? GROUP BY span"
        )
        found = dict(dataset.tuples(query, rows.run))
        return tuple(found.get(span, 0) for span in range(count))

    return Timeline(rows.run, seconds, of("data"), of("errors"))


def _span(least: float) -> float:
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 43200)
    return next((float(step) for step in steps if step >= least), 86400.0 * math.ceil(least / 86400))


def phases(dataset: Dataset) -> dict[str, float]:
    """Milliseconds in all that rows took to fetch, decode, encode and generate."""
    sums = ", ".join(f"coalesce(sum(timings.{phase}_ms), 0)" for phase in PHASES)
    return dict(zip(PHASES, dataset.tuples(f"SELECT {sums} FROM data")[0], strict=True))


def asked(dataset: Dataset) -> list[Asked]:
    """The commonest tasks, with what came of them."""
    found = dataset.tuples(
        f"""
        WITH good AS (
            SELECT task, prompt, count(*) AS answers, avg(output_tokens) AS tokens,
                avg(coalesce(len(objects), len(points))) AS places, avg(length(caption)) AS length
            FROM data GROUP BY task, prompt),
        bad AS (SELECT task, prompt, count(*) AS failures FROM errors GROUP BY task, prompt)
        SELECT task, prompt, coalesce(answers, 0), coalesce(failures, 0), coalesce(tokens, 0), places, length
        FROM good FULL JOIN bad USING (task, prompt)
        ORDER BY coalesce(answers, 0) + coalesce(failures, 0) DESC, task, prompt LIMIT {GROUPS}
        """
    )
    return [Asked(*row) for row in found]


def error_groups(dataset: Dataset) -> list[ErrorGroup]:
    """The commonest failures by stage and class, with the first examples by id."""
    groups = dataset.tuples(
        "SELECT stage, error, count(*), count(DISTINCT key), count(*) FILTER (WHERE retryable) "
        f"FROM errors GROUP BY stage, error ORDER BY count(*) DESC, stage, error LIMIT {GROUPS}"
    )
    examples = "SELECT filename, task, prompt, message FROM errors WHERE stage = ? AND error = ? ORDER BY id LIMIT ?"
    return [
        ErrorGroup(stage, error, rows, pictures, retryable, tuple(dataset.tuples(examples, stage, error, EXAMPLES)))
        for stage, error, rows, pictures, retryable in groups
    ]


def common_openings(dataset: Dataset) -> list[tuple[str, int]]:
    """The words with which most texts open, and how many do, where more than one does."""
    # Cut off first: to split all of a long text for its first words takes a hundred times as long.
    first = f"regexp_extract(caption, '^\\s*((\\S+\\s+){{0,{OPENING_WORDS - 1}}}\\S+)', 1)"
    words = f"array_to_string(regexp_split_to_array(lower({first}), '\\s+'), ' ')"
    found: list[Any] = dataset.tuples(
        f"SELECT {words} AS opening, count(*) FROM data WHERE {TEXT_TASKS} AND trim(caption) LIKE '% % %' "
        f"GROUP BY opening HAVING count(*) > 1 ORDER BY count(*) DESC, opening LIMIT {OPENINGS}"
    )
    return found
