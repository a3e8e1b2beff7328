"""Worker processes: when one counts as hung, and the end of a run whose workers never start."""

from __future__ import annotations

import signal
import sys
from functools import partial

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from moondream_beam.pipelines.local_runner.runner import LocalRunner
from moondream_beam.pipelines.local_runner.signals import ON_INTERRUPT, Interrupt, interruptible, interrupts_held
from moondream_beam.pipelines.local_runner.worker_pool import (
    FIRST_ROW_TIMEOUT_S,
    HEARTBEAT_TIMEOUT_S,
    POLL_INTERVAL_S,
    ROW_TIMEOUT_S,
    STARTUP_TIMEOUT_S,
    LivenessMonitor,
    WorkerPool,
)
from moondream_beam.transforms.monitoring.heartbeat import PIPE, Heartbeat


def after(monitor: LivenessMonitor, seconds: float, received: bytes = b"") -> str | None:
    """Return the failure reason after polls for so many seconds, in each of which ``received`` arrives."""
    for _ in range(int(seconds / POLL_INTERVAL_S)):
        monitor.poll(received)
    return monitor.failure_reason()


def test_a_process_without_heartbeats_hangs_after_a_timeout_that_is_longer_at_its_start():
    monitor = LivenessMonitor()
    assert after(monitor, STARTUP_TIMEOUT_S - 1) is None
    assert after(monitor, 1) == "sent no heartbeat for 1800 s"
    assert after(monitor, 1, b"\n") is None
    assert after(monitor, HEARTBEAT_TIMEOUT_S - 1) is None
    assert after(monitor, 1) == "sent no heartbeat for 300 s"


def test_a_process_without_new_rows_hangs_after_a_timeout_that_is_longer_before_its_first_row():
    monitor = LivenessMonitor()
    assert after(monitor, 1, b"\n[3, 0]\n") is None
    assert after(monitor, FIRST_ROW_TIMEOUT_S - 1, b"\n") is None
    assert after(monitor, 1, b"\n") == "produced no row for 21600 s in shard 3 after 0 rows"
    assert after(monitor, 1, b"[3, 1]\n[3, ") is None
    assert after(monitor, 1, b"17]\n\n") is None
    assert after(monitor, ROW_TIMEOUT_S - 1, b"\n") is None
    assert after(monitor, 1, b"\n") == "produced no row for 7200 s in shard 3 after 17 rows"


def test_a_process_without_a_shard_needs_no_rows():
    monitor = LivenessMonitor()
    assert after(monitor, 1, b"[3, 1]\n[null, 0]\n") is None
    assert after(monitor, FIRST_ROW_TIMEOUT_S + ROW_TIMEOUT_S, b"\n") is None


def test_extra_seconds_for_a_row_are_added_to_the_timeout():
    monitor = LivenessMonitor(extra_row_s=3600)
    assert after(monitor, 1, b"[3, 1]\n") is None
    assert after(monitor, ROW_TIMEOUT_S + 3599, b"\n") is None
    assert after(monitor, 1, b"\n") == "produced no row for 10800 s in shard 3 after 1 rows"


def test_a_process_without_a_pipe_sends_no_heartbeat(monkeypatch):
    monkeypatch.delenv(PIPE, raising=False)
    heartbeat = Heartbeat()
    heartbeat.start(lambda: None)
    with heartbeat.working_on(1):
        heartbeat.report(1, 2)


@pytest.mark.parametrize("code, end", [("raise SystemExit(3)", "ended with status 3"), ("", "ended with status 0")])
def test_workers_that_never_start_end_the_run(code, end):
    options = PipelineOptions([])
    options.view_as(DirectOptions).direct_num_workers = 2
    runner = LocalRunner(options, WorkerPool([sys.executable, "-c", code]))
    pipeline = beam.Pipeline(runner, options=options)
    _ = pipeline | beam.Create([1, 2])
    with pytest.raises(RuntimeError, match=end):
        pipeline.run()
    assert len(runner.dead_workers) == 2 and all(end in what for what in runner.dead_workers)


def test_a_failure_of_the_device_is_no_row():
    monitor = LivenessMonitor()
    assert after(monitor, 1, b'[3, 1]\n"CUDA error: x"\n') is None
    assert monitor.device_failure == "CUDA error: x" and monitor.position == " in shard 3 after 1 rows"


def test_a_pool_without_its_failed_devices_has_the_other_gpus():
    pool = WorkerPool(["x"], 1.0, 3, ("0", "GPU-5", "7"))
    pool.device_failures["worker_1 (GPU GPU-5)"] = "gone"
    pool.failed_gpus.add("GPU-5")
    left = pool.without_failed_devices()
    assert left is not None and (left.workers, left.gpus, left.device_failures) == (2, ("0", "7"), {})
    pool.device_failures.update({"worker_0 (GPU 0)": "gone", "worker_2 (GPU 7)": "gone"})
    assert pool.without_failed_devices() is None


def test_a_signal_while_a_process_is_started_waits_until_the_process_is_known():
    steps = list[str]()
    with pytest.raises(Interrupt, match="SIGTERM"), interruptible():
        with interrupts_held():
            signal.raise_signal(signal.SIGTERM)
            steps.append("started")
        steps.append("not interrupted")
    assert steps == ["started"]


def test_every_process_is_told_of_a_signal_although_another_ends_at_that_moment():
    told = list[int]()

    def ends() -> None:
        told.append(1)
        ON_INTERRUPT.remove(ends)

    also = partial(told.append, 2)
    ON_INTERRUPT.extend([ends, also])
    try:
        with pytest.raises(Interrupt), interruptible():
            signal.raise_signal(signal.SIGTERM)
    finally:
        ON_INTERRUPT.remove(also)
    assert told == [1, 2]
