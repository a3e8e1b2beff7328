"""Workers that were not started by the runner: a job over a pool of them, also if one is killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from support.running.output_ids import ids
from support.running.worker_pools import pool_of_workers, two_hosts

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw

pytestmark = pytest.mark.slow

PICTURES, PATIENCE = 120, 120.0
# As in docs/clusters/beam_runners.md.
DRIVER = """
import sys
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import ExternalEnvironment
from moondream_beam import AnnotateToParquet, Caption, Moondream, ReadImages

pool, pictures, out = sys.argv[1:]
runner = FnApiRunner(default_environment=ExternalEnvironment(pool))
with beam.Pipeline(runner, options=PipelineOptions(direct_num_workers=2)) as pipeline:
    job = AnnotateToParquet([Caption("short")], Moondream("tiny", threads=1), out, shard_size=5)
    pipeline | ReadImages(pictures) | job
"""


class Workers(NamedTuple):
    """A pool of workers, and the command prefix that runs a program on the host of the pipeline."""

    address: str
    process: psutil.Process
    driver: list[str]


@pytest.fixture(params=["one host", "two hosts"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    """Start a pool on this host, or on a host of its own."""
    with contextlib.ExitStack() as stack:
        if request.param == "one host":
            yield Workers(*stack.enter_context(pool_of_workers(tmp_path)), [])
            return
        try:
            hosts = stack.enter_context(two_hosts(tmp_path))
        except OSError as error:
            pytest.skip(f"there can be no second host: {error}")
        yield Workers(*stack.enter_context(pool_of_workers(tmp_path, hosts["pool"], "pool")), hosts["driver"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, seed in zip(range(PICTURES - 1), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def start(workers: Workers, photos: Path, out: Path) -> subprocess.Popen:
    """Start the job in a separate process, because Beam resolves the host name, which the tests block."""
    command = [*workers.driver, sys.executable, "-c", DRIVER, workers.address, photos, out]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_job_over_two_external_workers_is_done(workers, photos, tmp_path):
    job = start(workers, photos, tmp_path / "out")
    most = 0
    while job.poll() is None:
        most = max(most, len(workers.process.children()))
        time.sleep(0.05)
    assert job.returncode == 0, job.communicate()[1]
    job.communicate()
    assert most == 2
    assert len(ids(tmp_path / "out")) == PICTURES
    assert len(list((tmp_path / "out").glob("runs/*.json"))) == 1


def test_after_an_external_worker_was_killed_the_same_job_adds_what_is_missing(workers, photos, tmp_path):
    out, end = tmp_path / "out", time.monotonic() + PATIENCE
    job = start(workers, photos, out)
    while not list(out.glob("data/*.parquet")):
        assert job.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    workers.process.children()[-1].kill()
    job.communicate(timeout=PATIENCE)
    assert job.returncode != 0
    assert 0 < len(ids(out)) < PICTURES
    end = time.monotonic() + 2 * PATIENCE
    while (again := start(workers, photos, out)).wait() != 0:
        # The other worker may still be working on its shard, and hold the lock.
        assert "is writing to it. Wait until it ends" in again.communicate()[1] and time.monotonic() < end
    again.communicate()
    assert len(ids(out)) == PICTURES
    assert not (out / "_temporary").exists() or not list((out / "_temporary").glob("*.lock"))
