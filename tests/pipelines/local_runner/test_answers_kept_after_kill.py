"""Runs that are killed or interrupted lose at most the answers of one checkpoint, and no row is missing or double."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from support.running.launcher import Launcher
from support.servers.object_stores import Bucket, make_bucket, s3_server

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.transforms.output.files import glob_files

PICTURES, CHECKPOINT_S, BATCH = 125, 1.0, 16
# The engine holds as many requests as it has slots, as many in its queue, and one pass of the vision encoder.
IN_FLIGHT = 3 * BATCH
QUESTIONS = tuple(f"What colour is shape number {number}?" for number in range(16))
REQUESTS = PICTURES * len(QUESTIONS)
OPTIONS = tuple(word for text in QUESTIONS for word in ("--query", text))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, seed in zip(range(PICTURES), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Yield an empty bucket, which this process and a launcher that starts later use."""
    with s3_server() as proxy:
        bucket = make_bucket("s3", proxy)
        for name, value in bucket.env.items():
            monkeypatch.setenv(name, value)
        yield bucket


def ids(out: str) -> list[str]:
    """Return the ids of all published rows."""
    found: list[str] = []
    for path in glob_files(f"{out}/data/*.parquet", f"{out}/errors/*.parquet"):
        with FileSystems.open(path) as file:
            found += pq.read_table(file, columns=["id"])["id"].to_pylist()
    return found


def words(photos: Path, out: str, *more: object) -> tuple[object, ...]:
    job = (
        "--model",
        "tiny",
        "--max-tokens",
        2,
        "--shard-size",
        60,
        "--checkpoint-every",
        CHECKPOINT_S,
        "--batch-size",
        BATCH,
    )
    return ("annotate", photos, "--output", out, *job, *OPTIONS, *more)


def stop_at_random_moments(
    launcher: Launcher, command: tuple[object, ...], number: signal.Signals, kills: int, workers: int, seed: int
) -> int:
    """Start the command and end it with a signal, several times. Return how many answers may have been lost."""
    chance, may_be_lost = random.Random(seed), 0
    for _ in range(kills):
        before = len(launcher.asked())
        process = launcher.start(*command)
        launcher.until_asked(before + chance.choice([0, 1, BATCH, 2 * BATCH]))
        time.sleep(chance.random() * 1.5)
        # A checkpoint that is due is written within half a second, while other processes use the cores.
        earlier = len(launcher.asked())
        time.sleep(CHECKPOINT_S + 0.5)
        if number == signal.SIGKILL:
            os.killpg(process, number)
        else:
            os.kill(process, number)
            earlier = len(launcher.asked())
        launcher.ended(process)
        may_be_lost += len(launcher.asked()) - earlier + IN_FLIGHT * workers
    return may_be_lost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "kills", "more"),
    [
        (signal.SIGKILL, 20, ()),
        (signal.SIGKILL, 5, ("--workers", 2)),
        (signal.SIGTERM, 5, ()),
        (signal.SIGTERM, 3, ("--workers", 2)),
    ],
    ids=["kill", "kill-two-workers", "term", "term-two-workers"],
)
def test_no_row_is_missing_or_double_and_few_are_asked_again(
    photos: Path, tmp_path: Path, launcher: Launcher, number: signal.Signals, kills: int, more: tuple[object, ...]
) -> None:
    out = str(tmp_path / "out")
    command = words(photos, out, *more)
    may_be_lost = stop_at_random_moments(launcher, command, number, kills, workers=2 if more else 1, seed=4)
    check_the_end(launcher, command, out, may_be_lost)


@pytest.mark.slow
def test_answers_are_kept_in_a_bucket(photos: Path, bucket: Bucket, launcher: Launcher) -> None:
    out = f"{bucket.root}/out"
    command = words(photos, out)
    may_be_lost = stop_at_random_moments(launcher, command, signal.SIGKILL, 4, workers=1, seed=5)
    check_the_end(launcher, command, out, may_be_lost)


@pytest.mark.slow
def test_answers_of_slices_are_kept(photos: Path, tmp_path: Path, launcher: Launcher) -> None:
    out, may_be_lost = str(tmp_path / "out"), 0
    commands = [words(photos, out, "--slice", f"{number}/2") for number in (0, 1)]
    for command in commands:
        may_be_lost += stop_at_random_moments(launcher, command, signal.SIGKILL, 3, workers=1, seed=6)
    assert launcher.run(*commands[0]) == 0
    check_the_end(launcher, commands[1], out, may_be_lost)


def check_the_end(launcher: Launcher, command: tuple[object, ...], out: str, may_be_lost: int) -> None:
    """Run the command to its end, and check that each row is there once and few requests were made twice."""
    assert launcher.run(*command) == 0
    found = ids(out)
    assert len(found) == REQUESTS
    assert set(Counter(found).values()) == {1}
    asked = launcher.asked()
    assert len(set(asked)) == REQUESTS
    assert len(asked) <= REQUESTS + may_be_lost
    assert launcher.run(*command) == 0
    assert launcher.asked() == asked
    assert glob_files(f"{out}/_temporary/*") == []
