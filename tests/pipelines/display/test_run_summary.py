"""The ledger in words, and the exit status."""

from __future__ import annotations

import pytest

from moondream_beam.pipelines.display.run_summary import exit_status, format_summary
from moondream_beam.transforms.annotation.job import balances
from moondream_beam.transforms.core.summary import Count, Summary
from moondream_beam.transforms.monitoring.row_counts import RowCounts


def record(annotations: int, failures: int, done: int = 0, **published: object) -> dict:
    """A run that was asked ten; what is published is what was told, but for what is said."""
    counts = {
        "pictures": 5,
        "pending": 10,
        "done": done,
        "retried": 0,
        "annotations": annotations,
        "failures": failures,
    }
    told = Summary(annotations, failures)
    found = RowCounts(annotations, failures, files=3)._replace(**published)
    balanced = balances(Count(pending=10), told, found)
    return {"run": "r1", "wall_seconds": 2.0, "balanced": balanced, "counts": counts, "published": found._asdict()}


def test_a_ledger_tells_what_went_in_and_what_came_out():
    assert format_summary(record(10, 0, done=4), "out", 0.0).splitlines() == [
        "ledger   10 asked = 10 in data/ + 0 in errors/: balances",
        "before   4 more were asked, and had their rows already, in data/ or errors/",
        "pace     5 pictures in 2.0 s, 2.5 a second, start included",
        "output   out",
        "record   out/runs/r1.json",
    ]


@pytest.mark.parametrize(
    "failures, allowed, line",
    [
        (1, 0.0, "errors   1 of 10, more than --max-failure-rate 0 allows; "),
        (3, 0.25, "errors   3 of 10, more than --max-failure-rate 0.25 allows; "),
        (1, 0.1, "errors   1 of 10; "),
    ],
)
def test_errors_are_told_with_where_their_reasons_stand_and_how_they_are_asked_again(failures, allowed, line):
    lines = format_summary(record(10 - failures, failures), "out", allowed).splitlines()
    assert lines[1] == line + "each row in out/errors says why, and --retry-errors asks again"


@pytest.mark.parametrize(
    "kept, lines",
    [
        (
            record(8, 1),
            [
                "ledger   10 asked, 9 told by the workers: 8 in data/ + 1 in errors/",
                "files    8 in data/ + 1 in errors/, in 3: DOES NOT BALANCE",
                "cure     run the same command again: it does what is missing; and tell us",
            ],
        ),
        (
            record(9, 1, data=7),
            [
                "ledger   10 asked, 10 told by the workers: 9 in data/ + 1 in errors/",
                "files    7 in data/ + 1 in errors/, in 3: DOES NOT BALANCE",
                "cure     run the same command again: it does what is missing; and tell us",
            ],
        ),
        (
            record(9, 1, data=12, files=4),
            [
                "ledger   10 asked, 10 told by the workers: 9 in data/ + 1 in errors/",
                "files    12 in data/ + 1 in errors/, in 4: DOES NOT BALANCE",
                "cure     look for copies among part-r1-*.parquet in data/ and errors/, and tell us",
            ],
        ),
        (
            record(9, 1, count_error="s3://b/out: it is tired"),
            [
                "ledger   10 asked, 10 told by the workers: 9 in data/ + 1 in errors/",
                "files    COULD NOT BE COUNTED: s3://b/out: it is tired",
            ],
        ),
        (
            record(8, 1, count_error="no"),
            [
                "ledger   10 asked, 9 told by the workers: 8 in data/ + 1 in errors/",
                "files    COULD NOT BE COUNTED: no; and what was told DOES NOT BALANCE",
            ],
        ),
    ],
)
def test_a_ledger_out_of_balance_tells_what_was_asked_told_and_found_and_is_a_failure(kept, lines):
    assert format_summary(kept, "out", 1.0).splitlines()[: len(lines)] == lines
    assert exit_status(kept, max_failure_rate=1.0) == 1


@pytest.mark.parametrize("failures, allowed, status", [(0, 0.0, 0), (1, 0.0, 1), (1, 0.1, 0), (2, 0.1, 1)])
def test_the_exit_status_follows_the_failure_rate(failures, allowed, status):
    assert exit_status(record(10 - failures, failures), allowed) == status
