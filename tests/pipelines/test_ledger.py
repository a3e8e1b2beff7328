"""The ledger in words, and the exit status."""

from __future__ import annotations

import pytest

from moondream_beam.pipelines.ledger import balance_sheet, exit_status


def record(annotations: int, failures: int, done: int = 0) -> dict:
    counts = {
        "pictures": 5,
        "pending": 10,
        "done": done,
        "retried": 0,
        "annotations": annotations,
        "failures": failures,
    }
    return {"run": "r1", "wall_seconds": 2.0, "balanced": annotations + failures == 10, "counts": counts}


def test_a_ledger_tells_what_went_in_and_what_came_out():
    assert balance_sheet(record(9, 1, done=4), "out").splitlines() == [
        "ledger   10 asked = 9 in data/ + 1 in errors/: balances",
        "before   4 more were asked, and had their rows already",
        "pace     5 pictures in 2.0 s, 2.5 a second, start included",
        "output   out",
        "record   out/runs/r1.json",
    ]


def test_a_ledger_out_of_balance_says_so_and_is_a_failure():
    assert "DOES NOT BALANCE" in balance_sheet(record(8, 1), "out")
    assert exit_status(record(8, 1), max_failure_rate=1.0) == 1


@pytest.mark.parametrize("failures, allowed, status", [(0, 0.0, 0), (1, 0.0, 1), (1, 0.1, 0), (2, 0.1, 1)])
def test_the_exit_status_follows_the_failure_rate(failures, allowed, status):
    assert exit_status(record(10 - failures, failures), allowed) == status
