"""A worker without memory exits, and a worker learns that the process that started it is gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from moondream_beam.transforms.monitoring.heartbeat import OUT_OF_MEMORY, PIPE

HANGING = """
import os, threading, time
from moondream_beam.transforms.monitoring import heartbeat
heartbeat.BEAT_SECONDS = 0.02
heartbeat.Heartbeat().start(lambda: os._exit(7))
"""
# A thread that has no memory for its first call never reports that it runs.
NO_THREAD = "threading.Thread._bootstrap = lambda self: None; threading.Thread().start()"
NO_MEMORY = """
import resource
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# Below what it has now, because memory that was freed can be used again.
limit = taken - (4 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
time.sleep(60)
"""


@pytest.mark.parametrize(
    "ending", [NO_THREAD, pytest.param(NO_MEMORY, marks=pytest.mark.skipif(sys.platform != "linux", reason="/proc"))]
)
def test_a_process_that_would_hang_without_memory_exits(ending: str) -> None:
    reads, writes = os.pipe()
    environment = {**os.environ, PIPE: str(writes)}
    done = subprocess.run([sys.executable, "-c", HANGING + ending], env=environment, pass_fds=[writes], timeout=60)
    os.close(writes)
    os.close(reads)
    assert done.returncode == OUT_OF_MEMORY


def test_a_process_learns_that_the_reader_of_its_heartbeat_is_gone() -> None:
    reads, writes = os.pipe()
    environment = {**os.environ, PIPE: str(writes)}
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING + "time.sleep(60)"], env=environment, pass_fds=[writes], stdin=subprocess.DEVNULL
    )
    os.close(writes)
    assert os.read(reads, 1) == b"\n"
    assert process.poll() is None
    os.close(reads)
    assert process.wait(60) == 7
