"""Runs that are ended by signals at random moments: no row is missing or double, and few requests are made twice.

A kill costs at most the requests in flight and the answers since the last checkpoint, and SIGTERM the former only.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from support.running.drill import Drill, draw_pictures
from support.running.launcher import Launcher
from support.servers.object_stores import make_bucket, s3_server

pytestmark = pytest.mark.slow

# After so many requests of a run a signal is sent. All runs of a drill have 2,000 requests together.
KILLS = (0, 0, 20, 50, *[100] * 2, *[150] * 2, *[200] * 3, *[250] * 2, *[300] * 3, *[350] * 2, *[400] * 2)
STOPS = (0, 0, 20, 50, 60, 80, 90, *[100] * 4, *[110] * 2, *[120] * 3, 130, 140, *[150] * 2)
KILLS_OF_A_SLICE = (0, 20, 60, 90, 120, *[150] * 2, 180, *[200] * 2)


@pytest.fixture(scope="module")
def launcher_and_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launcher, str]]:
    """Yield one launcher for all tests, because its start takes seconds, and the URI of a bucket that it can reach."""
    with s3_server() as proxy, pytest.MonkeyPatch.context() as patch:
        bucket = make_bucket("s3", proxy)
        for name, value in bucket.env.items():
            patch.setenv(name, value)
        FileSystems.set_options(PipelineOptions())
        launcher = Launcher(tmp_path_factory.mktemp("drills") / "asked")
        yield launcher, bucket.root
        launcher.close()


@pytest.fixture
def new_drill(launcher_and_bucket: tuple[Launcher, str], tmp_path: Path) -> Callable[..., Drill]:
    """Return a function that makes a drill over new pictures, with its output in a folder or in the bucket."""
    launcher, bucket = launcher_and_bucket
    launcher.begin_log(tmp_path / "asked")

    def make(place: str, pictures: int, rate: float, workers: int = 1) -> Drill:
        out = str(tmp_path / "out") if place == "disk" else f"{bucket}/{tmp_path.name}"
        return Drill(launcher, pictures, draw_pictures(tmp_path / "photos", pictures), out, rate, workers)

    return make


@pytest.mark.parametrize(
    ("place", "workers", "number", "pictures", "rate", "moments"),
    [
        pytest.param("disk", 1, SIGKILL, 125, 100, KILLS, id="kill"),
        pytest.param("disk", 2, SIGKILL, 125, 100, KILLS, id="kill-two-workers"),
        pytest.param("s3", 1, SIGKILL, 125, 100, KILLS, id="kill-bucket"),
        pytest.param("disk", 1, SIGTERM, 125, 200, STOPS, id="term"),
        pytest.param("disk", 2, SIGTERM, 30, 250, (150,), id="term-two-workers"),
        pytest.param("s3", 1, SIGTERM, 30, 250, (300,), id="term-bucket"),
    ],
)
def test_no_row_is_missing_or_double_and_few_requests_are_made_twice(
    new_drill: Callable[..., Drill],
    place: str,
    workers: int,
    number: signal.Signals,
    pictures: int,
    rate: float,
    moments: tuple[int, ...],
) -> None:
    drill = new_drill(place, pictures, rate, workers)
    for after in drill.moments(*moments):
        drill.end(number, after)
    drill.finish()
    drill.check()


def test_slices_keep_their_answers_while_other_slices_begin_and_end(new_drill: Callable[..., Drill]) -> None:
    # The paths of the pictures decide how many of them a slice has, and more are asked before a signal arrives.
    drill = new_drill("disk", 125, 100)
    one, other = (("--slice", f"{number}/2") for number in (0, 1))
    for after in drill.moments(*KILLS_OF_A_SLICE):
        drill.end(SIGKILL, after, *one)
    for after in drill.moments(*KILLS_OF_A_SLICE):
        drill.end(SIGKILL, after, *other)
    drill.finish(*one)
    drill.finish(*other)
    drill.check()
