"""Two attempts publish one shard at the same moment, in every order of their steps, and crash at each step."""

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
# The calls of a publishing attempt that change or read file names. stepwise.py lets an attempt make one at a time.
STEPS = 9
Stepwise = Callable[[Callable[[], object]], Attempt]


def written(out: Path, *failed: str) -> ShardWriter:
    """Return an attempt at a shard of three rows that has not published yet. The rows in ``failed`` are failures."""
    writer = ShardWriter(str(out), "run", 0)
    for name in IDS:
        writer.add(failure(id=name) if name in failed else annotation(id=name))
    return writer


def publishing(writer: ShardWriter) -> Callable[[], object]:
    """Return what the annotating step does: recover the commit of an earlier attempt, or publish."""
    return lambda: writer.recover_commit() or writer.publish()


@cache
def ids(path: Path, written: int) -> list[str]:
    return pq.read_table(path, columns=["id"])["id"].to_pylist()


def seen(out: Path) -> dict[str, str]:
    """Return the folder of each published row, and check that no row is published twice."""
    found = [
        (name, kind)
        for kind in ("data", "errors")
        for path in out.glob(f"{kind}/*.parquet")
        for name in ids(path, path.stat().st_mtime_ns)
    ]
    assert set(Counter(name for name, _ in found).values()) <= {1}, found
    return dict(found)


# The failed rows of two attempts, and of a third attempt that begins after the two have ended or crashed.
FAILED = [(("one",), (), ("two", "three")), (("one",), ("two",), ()), (IDS, (), ("one",)), ((), IDS, IDS)]


def steps(out: Path, stepwise: Stepwise) -> int:
    """Return how many steps a publishing attempt takes if there is no other attempt."""
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
    """Let two attempts take steps in this order, crash those in ``deaths``, and publish a third attempt."""
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
    # The next run deletes the temporary files of crashed attempts.
    assert deaths or not list((out / "_temporary").iterdir())
    shutil.rmtree(out)


@pytest.mark.parametrize("failed", FAILED)
def test_of_two_attempts_that_publish_at_once_one_is_published(tmp_path: Path, stepwise: Stepwise, failed) -> None:
    out = tmp_path / "out"
    most = steps(out, stepwise)
    for order in orders(most, most, switches=2):
        check(out, stepwise, failed, order, set())


@pytest.mark.slow
def test_one_attempt_is_published_in_every_order_of_steps(tmp_path: Path, stepwise: Stepwise) -> None:
    out = tmp_path / "out"
    most = steps(out, stepwise)
    for order in orders(most, most, switches=4):
        check(out, stepwise, FAILED[0], order, set())


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [{0}, {0, 1}])
def test_a_crash_at_any_step_is_repaired_by_the_next_attempt(
    tmp_path: Path, stepwise: Stepwise, deaths: set[int]
) -> None:
    out = tmp_path / "out"
    most = steps(out, stepwise)
    for mine in range(most):
        # If both crash, the second crashes at each of its steps too. Otherwise it takes all of them.
        for its in range(most) if len(deaths) == 2 else [most]:
            for order in orders(mine, its, switches=2):
                check(out, stepwise, FAILED[0], order, deaths)
