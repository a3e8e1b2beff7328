"""Start one command again and again, and end it with a signal at a random moment each time."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from support.running.launcher import Launcher

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.transforms.output.files import glob_files

TASKS, BROKEN = 16, 2
QUERIES = tuple(word for number in range(TASKS) for word in ("--query", f"What colour is shape {number}?"))
CHECKPOINT_S, BATCH = 1.0, 16
# A checkpoint may be this late, and later on a busy machine: so many times the time to write one file beside the run.
SLACK_S, DELAYS, MEASURE_INTERVAL_S = 0.5, 5.0, 0.5
# A bucket stays locked for so long after a kill.
LEASE = {"LEASE_S": 1.0, "RENEWAL_INTERVAL_S": 0.25}
BUSY, HAS_ERRORS = 2, 1
# A store that takes longer than this to publish after SIGTERM may cost the answers since the last checkpoint.
PUBLISH_S = 10.0
# How long a command may take until its next request.
PATIENCE = 300.0


def draw_pictures(folder: Path, count: int, broken: int = BROKEN) -> Path:
    """Draw pictures of different bytes in a new folder, and write some broken files. Return the folder."""
    folder.mkdir()
    for index, seed in zip(range(count), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(folder / f"{index}.png")
    for index in range(broken):
        (folder / f"broken{index}.jpg").write_bytes(b"<html>")
    return folder


class Drill:
    """One command over some pictures that is ended by signals.

    Args:
        rate: answers a second of all workers together.
        more: further arguments of the command.

    Attributes:
        may_be_lost: the most answers that the signals so far may have cost.
    """

    def __init__(
        self, launcher: Launcher, pictures: int, photos: Path, out: str, rate: float, workers: int = 1
    ) -> None:
        self.launcher, self.requests, self.out, self.workers = launcher, pictures * TASKS, out, workers
        seed = int(os.environ.get("DRILL_SEED") or random.randrange(1 << 30))
        print(f"the moments are those of DRILL_SEED={seed}")
        self.chance, self.may_be_lost, self._longest_write_s = random.Random(seed), 0, 0.0
        options: tuple[Any, ...] = ("--output", out, "--model", "tiny", "--no-report", "--workers", workers)
        options += ("--shard-size", 70, "--checkpoint-every", CHECKPOINT_S)
        self.words = ("annotate", photos, *options, *QUERIES)
        self.limits = {"rate": rate / workers, "batch": BATCH, **LEASE}

    def moments(self, *counts: int) -> list[int]:
        """Return the counts in a random order, each changed by up to a fifth."""
        return [round(count * self.chance.uniform(0.8, 1.2)) for count in self.chance.sample(counts, len(counts))]

    def end(self, number: signal.Signals, after: int, *more: object) -> None:
        """Start the command, and send a signal a moment after so many requests of it, or at its end before that.

        A slice that has fewer requests left than that ends without a signal.
        """
        before, own_ends = len(self.launcher.asked()), (0, HAS_ERRORS) if "--slice" in more else (HAS_ERRORS,)
        while (process := self.start(*more)) and not self._reached(process, before + after):
            if (status := self.launcher.ended(process)) in own_ends and "--slice" in more:
                return
            assert status == BUSY, self.launcher.said()
        # Without a request the process starts, plans or publishes at that moment.
        time.sleep(self.chance.random() * (0.2 if after else 1.5))
        now = time.monotonic()
        if number == signal.SIGKILL:
            os.killpg(process, number)
        else:
            os.kill(process, number)
        assert self.launcher.ended(process) in (-number, 128 + number, *own_ends), self.launcher.said()
        if number == signal.SIGKILL or time.monotonic() - now > PUBLISH_S:
            since = now - CHECKPOINT_S - SLACK_S - DELAYS * self._longest_write_s
            self.may_be_lost += sum(at > since for at in self._asked_at()[before:])
        # A second batch may be asked before the signal is handled.
        self.may_be_lost += 2 * BATCH * self.workers

    def start(self, *more: object) -> int:
        """Start the command, and return the id of its process group."""
        return self.launcher.start(*self.words, *more, **self.limits)

    def finish(self, *more: object) -> None:
        """Run the command to its end. A slice may have none of the broken pictures."""
        end = time.monotonic() + PATIENCE
        while (status := self.launcher.ended(self.start(*more))) == BUSY:
            assert time.monotonic() < end, self.launcher.said()
        assert status in ((0, HAS_ERRORS) if "--slice" in more else (HAS_ERRORS,)), self.launcher.said()

    def check(self) -> None:
        """Check that each row is there once, that few requests were made twice, and that nothing else is left."""
        asked, data, errors = self.launcher.asked(), self._ids("data"), self._ids("errors")
        assert (len(set(data)), len(set(errors))) == (self.requests, BROKEN * TASKS)
        assert not Counter([*data, *errors]) - Counter({*data, *errors})
        assert len(set(asked)) == self.requests
        print(f"{len(asked) - self.requests} requests were made twice, and at most {self.may_be_lost} may be")
        assert len(asked) <= self.requests + self.may_be_lost
        assert glob_files(f"{self.out}/_temporary/*") == []

    def _reached(self, process: int, count: int) -> bool:
        """Wait for so many requests. Return False if the command ends before that without an answer of its own."""
        self._longest_write_s = measured = 0.0
        end = time.monotonic() + PATIENCE
        while len(asked := self.launcher.asked()) < count:
            assert time.monotonic() < end, f"timed out: {len(asked)} of {count} requests"
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return len(set(asked)) == self.requests
            if time.monotonic() > measured + MEASURE_INTERVAL_S:
                self._measure_write()
                measured = time.monotonic()
            time.sleep(0.02)
        self._measure_write()
        return True

    def _asked_at(self) -> list[float]:
        """Return when the requests were made, on the monotonic clock."""
        return [float(line.split()[1]) for line in self.launcher.log.read_text().splitlines()]

    def _measure_write(self) -> None:
        """Write and delete a file beside the output, and note the time if none took longer during this run."""
        path, began = f"{self.out}-write", time.monotonic()
        with FileSystems.create(path) as file:
            file.write(bytes(10_000))
        self._longest_write_s = max(self._longest_write_s, time.monotonic() - began)
        FileSystems.delete([path])

    def _ids(self, kind: str) -> list[str]:
        found: list[str] = []
        for path in glob_files(f"{self.out}/{kind}/*.parquet"):
            with FileSystems.open(path) as file:
                found += pq.read_table(file, columns=["id"])["id"].to_pylist()
        return found
