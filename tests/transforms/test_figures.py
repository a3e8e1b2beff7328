"""Figures equal what a query over the very files says."""

from __future__ import annotations

from datetime import timedelta

import duckdb
import pytest
from outputs import publish, some_of_each
from rows import NOW, annotation, failure

from moondream_beam.models.hosted.bill import Hosted
from moondream_beam.transforms import figures
from moondream_beam.transforms.dataset import Dataset
from moondream_beam.transforms.records import RowTimings


@pytest.fixture
def out(tmp_path):
    """Two runs of a hundred rows with numbers that differ, and thirty failures."""
    rows = [
        annotation(
            id=f"{index:03}",
            key=f"key {index // 4}",
            prompt=("normal", "short")[index % 2],
            caption=f"It is number {index} of a hundred rows"[: 10 + index % 30],
            input_tokens=700 + index,
            output_tokens=index * index % 97,
            timings=RowTimings(1.5, 2.5, 0.5, index, 2 * index, 100.0 + index * 7),
            created_at=NOW + timedelta(seconds=index / 3),
        )
        for index in range(200)
    ]
    bad = [
        failure(id=f"bad {index}", stage=("fetch", "decode", "decode")[index % 3], message=f"number {index}")
        for index in range(30)
    ]
    publish(tmp_path, *[row._replace(run="one") for row in rows[:100]], *bad)
    return publish(tmp_path, *[row._replace(run="two") for row in rows[100:]], run="two")


@pytest.fixture
def asked(out):
    """Asks DuckDB, with nothing of ours in between."""
    with duckdb.connect() as database:
        yield lambda query: database.execute(
            query.replace("DATA", f"'{out}/data/*.parquet'").replace("ERRORS", f"'{out}/errors/*.parquet'")
        ).fetchall()


def test_totals_equal_those_of_the_files(out, asked):
    with Dataset(str(out)) as dataset:
        totals = figures.totals(dataset)
    assert (totals.pictures, totals.annotations, totals.failures, totals.twice) == (51, 200, 30, 0)
    assert [(totals.input_tokens, totals.output_tokens)] == asked(
        "SELECT sum(input_tokens), sum(output_tokens) FROM DATA"
    )
    assert totals.usd is None


def test_what_was_billed_counts_failures_too(tmp_path):
    paid = Hosted("job", 1.0, 0.25, False, None)
    out = publish(tmp_path, annotation(hosted=paid), annotation(id="free"), failure(hosted=paid))
    with Dataset(str(out)) as dataset:
        assert figures.totals(dataset).usd == 0.5


def test_a_row_that_is_there_twice_is_counted(tmp_path):
    with Dataset(str(publish(tmp_path, annotation(), annotation(), annotation(id="other")))) as dataset:
        assert figures.totals(dataset).twice == 1


def test_a_spread_has_every_row_and_true_quantiles(out, asked):
    with Dataset(str(out)) as dataset:
        spread = figures.spread(dataset, "timings.total_ms")
    assert sum(spread.counts) == 200
    assert asked("SELECT quantile_cont(timings.total_ms, [0.5, 0.9, 0.99]) FROM DATA")[0][0] == list(spread[2:])
    below = f"SELECT count(*) FROM DATA WHERE timings.total_ms < {3 * spread.width}"
    assert asked(below) == [(sum(spread.counts[:3]),)]


def test_a_spread_of_nothing_is_none(tmp_path):
    with Dataset(str(publish(tmp_path, failure()))) as dataset:
        assert figures.spread(dataset, "output_tokens") is None


@pytest.mark.parametrize("least, width", [(0, 1), (0.3, 1), (1.1, 2), (4, 5), (5.1, 10), (99, 100), (150, 200)])
def test_bins_are_of_a_width_that_people_count_in(least, width):
    assert figures.round_up(least) == width


def test_runs_and_their_moments_hold_every_row(out):
    with Dataset(str(out)) as dataset:
        runs = figures.run_rows(dataset)
        moments = [figures.moments(dataset, run) for run in runs]
    assert [(run.run, run.annotations, run.failures) for run in runs] == [("one", 100, 30), ("two", 100, 0)]
    assert [(sum(each.annotations), sum(each.failures)) for each in moments] == [(100, 30), (100, 0)]
    assert moments[1].seconds == 1.0 and len(moments[1].annotations) == 34


def test_phases_are_sums(out, asked):
    with Dataset(str(out)) as dataset:
        phases = figures.phases(dataset)
    sums = ", ".join(f"sum(timings.{phase}_ms)" for phase in phases)
    assert [tuple(phases.values())] == asked(f"SELECT {sums} FROM DATA")


def test_what_was_asked_is_told_with_what_came_of_it(tmp_path):
    with Dataset(str(publish(tmp_path / "out", *some_of_each(tmp_path)))) as dataset:
        asked = {(task.task, task.prompt): task for task in figures.asked(dataset)}
    assert asked["query", "Why?"].failures == 2 and asked["query", "Why?"].answers == 0
    assert asked["detect", "cat"].mean_places == 2 and asked["detect", "cat"].mean_length is None
    assert asked["caption", "normal"].answers == 4


def test_errors_are_grouped_with_examples(out):
    with Dataset(str(out)) as dataset:
        groups = figures.error_groups(dataset)
    assert [(group.stage, group.error, group.rows, group.retryable) for group in groups] == [
        ("decode", "OSError", 20, 20),
        ("fetch", "OSError", 10, 10),
    ]
    assert [example[3] for example in groups[1].examples] == ["number 0", "number 12", "number 15"]


def test_openings_are_those_of_many_texts(out):
    with Dataset(str(out)) as dataset:
        assert figures.openings(dataset)[0][0] == "it is number"
