"""The command is killed at random times and run again: no row is missing or double, and little work is repeated."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.running.launcher import Launcher

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.tasks import Caption, Query, Sampling
from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.transforms.core.records import ImageRef, Job
from moondream_beam.transforms.core.summary import Count
from moondream_beam.transforms.planning.plan import shard_of

PICTURES, SHARD_SIZE, KILLS, BATCH = 125, 5, 10, 32
QUESTIONS = tuple(f"What colour is shape number {number}?" for number in range(15))
TASKS = (Caption("short"), *map(Query, QUESTIONS))
OPTIONS = ("--caption", "short", *(word for text in QUESTIONS for word in ("--query", text)), "--max-tokens", 1)


def published(out: Path) -> list[dict]:
    paths = [*out.glob("data/*.parquet"), *out.glob("errors/*.parquet")]
    return [row for path in paths for row in pq.read_table(path, columns=["id", "uri"]).to_pylist()]


@pytest.mark.slow
def test_a_job_killed_ten_times_ends_with_each_row_once(tmp_path: Path, launcher: Launcher) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    job = Job(TASKS, Moondream("tiny"), Sampling(max_tokens=1))
    refs, uri_of = [], {}
    for index, seed in zip(range(PICTURES), TEST_SEEDS, strict=False):
        path = photos / f"{index}.png"
        draw(seed).image.resize((48, 36)).save(path)
        refs.append(ImageRef(str(path), path.name))
        digest = sha256(path.read_bytes()).hexdigest()
        uri_of.update({job.request_id(digest, task): str(path) for task in TASKS})
    assert len(uri_of) == 2000
    words = (
        "annotate",
        photos,
        "--output",
        out,
        "--model",
        "tiny",
        "--max-tokens",
        3,
        "--shard-size",
        SHARD_SIZE,
        *OPTIONS,
    )

    chance = random.Random(4)
    for _ in range(KILLS):
        before, asked_before = {row["uri"] for row in published(out)}, len(launcher.asked())
        process = launcher.start(*words)
        # Kill before the first request, in the middle of a shard, or near its end.
        batches = chance.choice([0, 1, 2, 3, 4, 5])
        launcher.until_asked(asked_before + BATCH * batches)
        time.sleep(chance.random() * (0.3 if batches else 2.0))
        os.killpg(process, signal.SIGKILL)
        assert launcher.ended(process) == -signal.SIGKILL
        rows = published(out)
        assert set(Counter(row["id"] for row in rows).values()) <= {1}
        done, asked = {row["uri"] for row in rows}, launcher.asked()[asked_before:]
        # No committed row is asked again, and at most one open shard is lost.
        assert not {uri_of[question] for question in asked} & before
        pending = Count(pictures=PICTURES - len(before))
        lost = {uri_of[question] for question in asked} - done
        assert len({shard_of(ImageRef(uri, "").key, pending, SHARD_SIZE, 1) for uri in lost}) <= 1
    assert len(published(out)) < 2000

    assert launcher.run(*words) == 0
    assert Counter(row["id"] for row in published(out)) == Counter(
        job.id_of(ref, task) for ref in refs for task in TASKS
    )
    asked = launcher.asked()
    assert set(asked) == set(uri_of)
    assert not (out / "_temporary").exists()
    assert launcher.run(*words) == 0
    assert launcher.asked() == asked
