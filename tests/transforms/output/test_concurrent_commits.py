"""Attempts at one shard that publish at the same moment, in every order, and die at every step."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.data.rows import annotation, failure
from support.running.stepwise import Attempt, orders, stepwise

from moondream_beam.transforms.output.writer import ShardWriter

__all__ = ["stepwise"]

IDS = ("one", "two", "three")
# What an attempt does on the file system that another can see: all that stepwise.py lets it do one at a time.
STEPS = 9
Stepwise = Callable[[Callable[[], object]], Attempt]


def written(out: Path, *failed: str) -> ShardWriter:
    """An attempt at a shard of three rows, that has done all but to publish it."""
    writer = ShardWriter(str(out), "run", 0)
    for name in IDS:
        writer.add(failure(id=name) if name in failed else annotation(id=name))
    return writer


def publishing(writer: ShardWriter) -> Callable[[], object]:
    """As the step that annotates a shard does: an earlier attempt is looked for first."""
    return lambda: writer.recover_commit() or writer.publish()


@cache
def ids(path: Path, written: int) -> list[str]:
    return pq.read_table(path, columns=["id"])["id"].to_pylist()


def seen(out: Path) -> dict[str, str]:
    """Where each row is, which a reader of both folders sees once at most."""
    found = [
        (name, kind)
        for kind in ("data", "errors")
        for path in out.glob(f"{kind}/*.parquet")
        for name in ids(path, path.stat().st_mtime_ns)
    ]
    assert set(Counter(name for name, _ in found).values()) <= {1}, found
    return dict(found)


# The failures of two attempts, and of a third that comes when they are over or dead.
FAILED = [(("one",), (), ("two", "three")), (("one",), ("two",), ()), (IDS, (), ("one",)), ((), IDS, IDS)]


def steps(out: Path, stepwise: Stepwise) -> int:
    """How many steps an attempt has that is alone."""
    attempt = stepwise(publishing(written(out, "one")))
    for number in count():
        if attempt.over:
            shutil.rmtree(out)
            # The gate in stepwise.py counts a call as a step if "part-" is in its arguments: other names would pass it.
            assert number == STEPS
            return number
        attempt.step()
    raise AssertionError


def check(
    out: Path, stepwise: Stepwise, failed: Sequence[Sequence[str]], order: Sequence[int], deaths: set[int]
) -> None:
    """Two attempts take their steps in this order; then those die whose ``deaths`` it is, and a third one comes."""
    attempts = [stepwise(publishing(written(out, *failed[who]))) for who in (0, 1)]
    for who in order:
        if not attempts[who].over:
            attempts[who].step()
            seen(out)
    for who, attempt in enumerate(attempts):
        if who in deaths:
            attempt.die()
        while not attempt.over:
            attempt.step()
            seen(out)
        assert attempt.error is None, attempt.error
    publishing(written(out, *failed[2]))()
    rows = seen(out)
    outcomes = [{name: "errors" if name in one else "data" for name in IDS} for one in failed]
    assert rows in outcomes, (rows, order, deaths)
    assert {path.name for path in out.glob("*/*.parquet") if path.parent.name != "_temporary"} == {
        "part-run-00000.parquet"
    }
    # What the dead leave is for the next run to remove.
    assert deaths or not list((out / "_temporary").iterdir())
    shutil.rmtree(out)


@pytest.mark.parametrize("failed", FAILED)
def test_two_attempts_that_publish_at_once_end_as_one_of_them(tmp_path: Path, stepwise: Stepwise, failed) -> None:
    out = tmp_path / "out"
    most = steps(out, stepwise)
    for order in orders(most, most, switches=2):
        check(out, stepwise, failed, order, set())


@pytest.mark.slow
def test_so_they_do_in_whatever_order_their_steps_come(tmp_path: Path, stepwise: Stepwise) -> None:
    out = tmp_path / "out"
    most = steps(out, stepwise)
    for order in orders(most, most, switches=4):
        check(out, stepwise, FAILED[0], order, set())


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [{0}, {0, 1}])
def test_attempts_that_die_at_any_step_leave_nothing_half_done(
    tmp_path: Path, stepwise: Stepwise, deaths: set[int]
) -> None:
    out = tmp_path / "out"
    most = steps(out, stepwise)
    for mine in range(most):
        # Of those that die together, the second one anywhere too; else it comes to its end.
        for its in range(most) if len(deaths) == 2 else [most]:
            for order in orders(mine, its, switches=2):
                check(out, stepwise, FAILED[0], order, deaths)
