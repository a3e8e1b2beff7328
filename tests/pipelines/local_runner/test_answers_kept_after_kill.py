"""Runs that are ended by signals at random moments: no row is missing or double, and few requests are made twice.

A kill costs at most the requests in flight and the answers since the last checkpoint, and SIGTERM the former only.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from support.running.drill import Drill, draw_pictures
from support.running.launcher import Launcher
from support.servers.object_stores import make_bucket, s3_server

pytestmark = pytest.mark.slow


@pytest.fixture
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the path of an output on the disk or in a bucket, which a launcher that starts later can reach."""
    if request.param == "disk":
        yield str(tmp_path / "out")
        return
    with s3_server() as proxy:
        bucket = make_bucket("s3", proxy)
        for name, value in bucket.env.items():
            monkeypatch.setenv(name, value)
        FileSystems.set_options(PipelineOptions())
        yield f"{bucket.root}/out"


@pytest.mark.parametrize(
    ("out", "workers", "number", "pictures", "rate", "moments"),
    [
        ("disk", 1, SIGKILL, 125, 125, (0, 0, 20, 100, 150, 150, 250, 400, 600)),
        ("s3", 1, SIGKILL, 60, 125, (0, 50, 300, 450)),
        ("disk", 2, SIGKILL, 40, 125, (100, 400)),
        ("disk", 1, SIGTERM, 60, 250, (0, 100, 300, 400)),
        ("s3", 1, SIGTERM, 30, 250, (300,)),
        ("disk", 2, SIGTERM, 30, 250, (150,)),
    ],
    indirect=["out"],
)
def test_no_row_is_missing_or_double_and_few_requests_are_made_twice(
    tmp_path: Path,
    out: str,
    launcher: Launcher,
    workers: int,
    number: signal.Signals,
    pictures: int,
    rate: float,
    moments: tuple[int, ...],
) -> None:
    drill = Drill(launcher, pictures, draw_pictures(tmp_path / "photos", pictures), out, rate, workers)
    for after in drill.moments(*moments):
        drill.end(number, after)
    drill.finish()
    drill.check()


@pytest.mark.parametrize("out", ["disk"], indirect=True)
def test_slices_keep_their_answers_while_other_slices_begin_and_end(tmp_path: Path, out: str, launcher) -> None:
    drill = Drill(launcher, 60, draw_pictures(tmp_path / "photos", 60), out, rate=125)
    one, other = (("--slice", f"{number}/2") for number in (0, 1))
    for after in drill.moments(50, 250, 300):
        drill.end(SIGKILL, after, *one)
    for after in drill.moments(50, 300):
        drill.end(SIGKILL, after, *other)
    drill.finish(*one)
    drill.finish(*other)
    drill.check()
