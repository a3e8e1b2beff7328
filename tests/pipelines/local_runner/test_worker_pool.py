"""Worker processes are watched: what their pulse tells, and what becomes of a run whose workers never come up."""

from __future__ import annotations

import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from moondream_beam.pipelines.local_runner.runner import LocalRunner
from moondream_beam.pipelines.local_runner.worker_pool import (
    FIRST_ROW_SECONDS,
    LOOK_SECONDS,
    ROW_SECONDS,
    SILENT_SECONDS,
    STARTING_SECONDS,
    Crew,
    Signs,
)
from moondream_beam.transforms.monitoring.heartbeat import PIPE, Pulse


def looks(signs: Signs, seconds: float, heard: bytes = b"") -> str | None:
    """What is to be said after so many seconds of looks that heard the same."""
    for _ in range(int(seconds / LOOK_SECONDS)):
        signs.look(heard)
    return signs.verdict()


def test_a_process_may_be_silent_for_a_while_and_longer_while_it_starts():
    signs = Signs()
    assert looks(signs, STARTING_SECONDS - 1) is None
    assert looks(signs, 1) == "gave no sign of life for 1800 s"
    assert looks(signs, 1, b"\n") is None
    assert looks(signs, SILENT_SECONDS - 1) is None
    assert looks(signs, 1) == "gave no sign of life for 300 s"


def test_one_that_beats_may_be_at_a_shard_for_long_without_a_row_and_longer_before_its_first():
    signs = Signs()
    assert looks(signs, 1, b"\n[3, 0]\n") is None
    assert looks(signs, FIRST_ROW_SECONDS - 1, b"\n") is None
    assert looks(signs, 1, b"\n") == "had no new row for 21600 s, at shard 3 after 0 rows"
    assert looks(signs, 1, b"[3, 1]\n[3, ") is None
    assert looks(signs, 1, b"17]\n\n") is None
    assert looks(signs, ROW_SECONDS - 1, b"\n") is None
    assert looks(signs, 1, b"\n") == "had no new row for 7200 s, at shard 3 after 17 rows"


def test_one_that_is_at_no_shard_waits_for_as_long_as_others_need():
    signs = Signs()
    assert looks(signs, 1, b"[3, 1]\n[null, 0]\n") is None
    assert looks(signs, FIRST_ROW_SECONDS + ROW_SECONDS, b"\n") is None


def test_where_an_api_answers_when_it_has_the_time_a_row_may_take_longer():
    signs = Signs(patience=3600)
    assert looks(signs, 1, b"[3, 1]\n") is None
    assert looks(signs, ROW_SECONDS + 3599, b"\n") is None
    assert looks(signs, 1, b"\n") == "had no new row for 10800 s, at shard 3 after 1 rows"


def test_a_process_without_a_pipe_has_no_pulse(monkeypatch):
    monkeypatch.delenv(PIPE, raising=False)
    pulse = Pulse()
    pulse.start()
    with pulse.working_on(1):
        pulse.report(1, 2)


@pytest.mark.parametrize("code, end", [("raise SystemExit(3)", "ended with status 3"), ("", "ended with status 0")])
def test_workers_that_never_come_up_end_the_run(code, end):
    options = PipelineOptions([])
    options.view_as(DirectOptions).direct_num_workers = 2
    runner = LocalRunner(options, Crew([sys.executable, "-c", code]))
    pipeline = beam.Pipeline(runner, options=options)
    _ = pipeline | beam.Create([1, 2])
    with pytest.raises(RuntimeError, match=end):
        pipeline.run()
    assert len(runner.lost) == 2 and all(end in what for what in runner.lost)
