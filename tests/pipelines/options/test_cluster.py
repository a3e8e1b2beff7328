"""Slices of one input by several commands, also at once, killed and restarted; options for other runners."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.transforms.environments import DockerEnvironment
from support.running.launcher import Launcher
from support.running.output_ids import ids

from moondream_beam.models.tiny.scenes import TEST_SEEDS, draw
from moondream_beam.pipelines.cli import build_parser
from moondream_beam.pipelines.commands.annotate import build
from moondream_beam.pipelines.options.cluster import runner_warning

PICTURES = 60


@pytest.fixture
def words(tmp_path: Path) -> tuple[Any, ...]:
    """Return the arguments to annotate 60 pictures, one of them broken, in shards of about 4 pictures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, seed in zip(range(PICTURES - 1), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(photos / f"{index}.png")
    (photos / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    options = ("--caption", "short", "--shard-size", 4, "--max-failure-rate", 0.5, "--no-report")
    return ("annotate", photos, "--output", out, "--model", "tiny", *options)


def test_two_slices_one_after_the_other_annotate_the_whole_input(pictures, command, tmp_path):
    out = tmp_path / "out"
    words = ("annotate", pictures, "--output", out, "--model", "tiny", "--max-failure-rate", 1)
    for part in ("0/2", "1/2"):
        assert command(*words, "--slice", part)[0] == 0
    assert len(ids(out)) == 5
    records = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*.json"))]
    assert sorted(record["options"]["slice"] for record in records) == ["0/2", "1/2"]
    assert all(record["balanced"] for record in records)
    assert sum(record["counts"]["pending"] for record in records) == 5
    _, stdout, _ = command(*words)
    assert "ledger   0 requests" in stdout and "5 more requests" in stdout


def test_a_slice_without_pictures_succeeds(pictures, command, tmp_path):
    words = ("annotate", pictures / "a.png", "--output", tmp_path / "out", "--model", "tiny")
    assert [command(*words, "--slice", f"{number}/3")[0] for number in range(3)] == [0, 0, 0]
    assert len(ids(tmp_path / "out")) == 1


def test_a_malformed_slice_is_refused(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny")
    status, _, stderr = command(*words, "--slice", "2/2")
    assert status == 2 and stderr.count("\n") == 1 and "slice 2/2: give NUMBER/COUNT" in stderr
    for option in ("--retry-errors", "--retry-changed"):
        status, _, stderr = command(*words, "--slice", "1/2", option)
        assert status == 2 and stderr.count("\n") == 1 and f"{option} without --slice" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_slices_that_run_at_once_and_are_killed_end_with_each_row_once(tmp_path, words, launcher: Launcher) -> None:
    out = tmp_path / "out"
    both = [launcher.start(*words, "--slice", f"{number}/2", hold_after=12) for number in range(2)]
    for process in both:
        launcher.held(process)
    assert 0 < len(ids(out)) < PICTURES
    # A command without --slice must not start while slices are at work.
    assert launcher.run(*words) == 2
    os.killpg(both[0], signal.SIGKILL)
    launcher.ended(both[0])
    again = launcher.start(*words, "--slice", "0/2")
    launcher.go_on(both[1])
    assert [launcher.ended(process) for process in (both[1], again)] == [0, 0]
    assert len(ids(out)) == PICTURES
    assert not (out / "_temporary").exists()
    asked = launcher.asked()
    assert launcher.run(*words) == 0
    assert launcher.asked() == asked


@pytest.mark.slow
def test_four_slices_that_start_at_the_same_time_ask_each_request_once(tmp_path, words, launcher: Launcher) -> None:
    started = [launcher.start(*words, "--slice", f"{number}/4") for number in range(4)]
    assert [launcher.ended(process) for process in started] == [0, 0, 0, 0]
    asked = launcher.asked()
    assert len(asked) == len(set(asked)) == PICTURES - 1
    assert len(ids(tmp_path / "out")) == PICTURES
    assert not (tmp_path / "out" / "_temporary").exists()
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "runs").glob("*.json")]
    assert sum(record["counts"]["pending"] for record in records) == PICTURES


@pytest.mark.slow
def test_the_same_slice_twice_at_once_is_refused(tmp_path, words, launcher: Launcher) -> None:
    first = launcher.start(*words, "--slice", "0/2", hold_after=1)
    launcher.held(first)
    assert launcher.run(*words, "--slice", "0/2") == 2
    assert "is writing to it. Wait until it ends" in launcher.said()
    launcher.go_on(first)
    assert launcher.ended(first) == 0


@pytest.mark.parametrize(
    "options, message",
    [
        (("--gpu", "nvidia-l4"), "--gpu does not work with --runner local"),
        (("--worker-memory", "16GB"), "--worker-memory does not work with --runner local"),
        (("--runner", "DataflowRunner", "--gpu", "L4;count:8"), "give a type such as nvidia-l4"),
        (("--runner", "DataflowRunner", "--worker-memory", "plenty"), "give a size such as 16GB"),
    ],
)
def test_resources_that_do_not_fit_the_runner_are_refused_in_one_line(pictures, command, tmp_path, options, message):
    status, _, stderr = command("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", *options)
    assert status == 2 and stderr.count("\n") == 1 and message in stderr
    assert not (tmp_path / "out").exists()


def test_gpu_and_memory_are_hints_of_the_step_with_the_model(pictures, tmp_path):
    words = ["annotate", str(pictures), "--output", str(tmp_path / "out"), "--model", "tiny"]
    words += ["--runner", "FnApiRunner", "--gpu", "nvidia-l4", "--worker-memory", "16GB"]
    args = build_parser().parse_args(words)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    build(pipeline, args, "run")
    proto = pipeline.to_runner_api(default_environment=DockerEnvironment.from_container_image("workers"))
    hints = [dict(one.resource_hints) for one in proto.components.environments.values() if one.resource_hints]
    assert [set(one.values()) for one in hints] == [
        {b"type:nvidia-l4;count:1;install-nvidia-driver", b"1", b"16000000000"}
    ]


@pytest.mark.parametrize("runner", ["dask", "DaskRunner", "apache_beam.runners.dask.dask_runner.DaskRunner"])
def test_dask_is_refused_because_it_drops_rows(pictures, command, tmp_path, runner):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", runner)
    status, _, stderr = command(*words)
    assert status == 2 and stderr.count("\n") == 1 and f"--runner {runner}: " in stderr and "--slice I/N" in stderr
    assert not (tmp_path / "out").exists()


def test_the_direct_runner_prints_a_warning_about_its_download(pictures, command, tmp_path):
    # The tests block the network, so the download fails. Beam then runs the job without it.
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", "DirectRunner")
    status, _, stderr = command(*words, "--max-failure-rate", 1)
    assert status == 0 and "--runner DirectRunner: this runner first tries to download a program" in stderr
    assert len(ids(tmp_path / "out")) == 5
    assert runner_warning("direct") and runner_warning("FlinkRunner") is runner_warning("local") is None


def test_an_unknown_runner_is_one_line_of_error(pictures, command, tmp_path):
    for runner in ("NoSuchRunner", "no.such.Runner"):
        words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", runner)
        status, _, stderr = command(*words)
        assert status == 2 and stderr.count("\n") == 1


DRY = (
    "--dry_run=True",
    "--project=some-project",
    "--region=europe-west4",
    "--temp_location=gs://some-bucket/temporary",
)


def test_a_dry_run_for_dataflow_starts_and_writes_nothing(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--gpu", "nvidia-l4")
    status, stdout, _ = command(*words, "--runner", "DataflowRunner", "--sdk_container_image=workers", *DRY)
    assert status == 0 and "nothing was started" in stdout
    assert not (tmp_path / "out").exists()


def test_a_dry_run_with_another_runner_is_refused(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", *DRY)
    for runner in ("local", "FnApiRunner"):
        status, _, stderr = command(*words, "--runner", runner)
        assert status == 2 and stderr.count("\n") == 1 and f"--runner {runner} ignores it" in stderr
    assert not (tmp_path / "out").exists()
