"""One job on many machines: commands for slices of one input, at once, killed and started again."""

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
from moondream_beam.pipelines.options.cluster import say_of_runner

PICTURES = 60


@pytest.fixture
def words(tmp_path: Path) -> tuple[Any, ...]:
    """The command over sixty pictures, one of them broken, in small shards."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, seed in zip(range(PICTURES - 1), TEST_SEEDS, strict=False):
        draw(seed).image.resize((48, 36)).save(photos / f"{index}.png")
    (photos / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    options = ("--caption", "short", "--shard-size", 4, "--max-failure-rate", 0.5, "--no-report")
    return ("annotate", photos, "--output", out, "--model", "tiny", *options)


def test_two_slices_one_after_the_other_are_the_whole(pictures, command, tmp_path):
    out = tmp_path / "out"
    words = ("annotate", pictures, "--output", out, "--model", "tiny", "--max-failure-rate", 1)
    for part in ("0/2", "1/2"):
        assert command(*words, "--slice", part)[0] == 0
    assert len(ids(out)) == 5
    records = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*.json"))]
    assert sorted(record["options"]["slice"] for record in records) == ["0/2", "1/2"]
    assert all(record["balanced"] for record in records)
    assert sum(record["counts"]["pending"] for record in records) == 5
    _, said, _ = command(*words)
    assert "ledger   0 asked" in said and "5 more were asked" in said


def test_a_slice_without_pictures_ends_well(pictures, command, tmp_path):
    words = ("annotate", pictures / "a.png", "--output", tmp_path / "out", "--model", "tiny")
    assert [command(*words, "--slice", f"{number}/3")[0] for number in range(3)] == [0, 0, 0]
    assert len(ids(tmp_path / "out")) == 1


def test_a_slice_that_is_none_is_refused(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny")
    status, _, said = command(*words, "--slice", "2/2")
    assert status == 2 and said.count("\n") == 1 and "slice 2/2: give NUMBER/COUNT" in said
    status, _, said = command(*words, "--slice", "1/2", "--retry-errors")
    assert status == 2 and said.count("\n") == 1 and "without --slice" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_slices_at_once_that_are_killed_end_with_each_row_once(tmp_path, words, launcher: Launcher) -> None:
    out = tmp_path / "out"
    both = [launcher.start(*words, "--slice", f"{number}/2", hold_after=12) for number in range(2)]
    for process in both:
        launcher.held(process)
    assert 0 < len(ids(out)) < PICTURES
    # Neither a command for all nor a second one for the same slice may come in between.
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
def test_four_slices_that_begin_in_the_same_moment_do_all_of_it_once(tmp_path, words, launcher: Launcher) -> None:
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
    "options, told",
    [
        (("--gpu", "nvidia-l4"), "--gpu is for workers elsewhere"),
        (("--worker-memory", "16GB"), "--worker-memory is for workers elsewhere"),
        (("--runner", "DataflowRunner", "--gpu", "L4;count:8"), "give a type such as nvidia-l4"),
        (("--runner", "DataflowRunner", "--worker-memory", "plenty"), "give a size such as 16GB"),
    ],
)
def test_what_workers_can_not_have_is_refused_in_a_line(pictures, command, tmp_path, options, told):
    status, _, said = command("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", *options)
    assert status == 2 and said.count("\n") == 1 and told in said
    assert not (tmp_path / "out").exists()


def test_the_command_asks_for_workers_with_a_gpu_where_the_model_is(pictures, tmp_path):
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
def test_dask_is_refused_since_it_loses_rows(pictures, command, tmp_path, runner):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", runner)
    status, _, said = command(*words)
    assert status == 2 and said.count("\n") == 1 and "says nothing; use --slice" in said
    assert not (tmp_path / "out").exists()


def test_what_the_direct_runner_does_first_is_said(pictures, command, tmp_path):
    # The download hits the wall around the network of these tests, after which Beam goes on without it.
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", "DirectRunner")
    status, _, said = command(*words, "--max-failure-rate", 1)
    assert status == 0 and "DirectRunner first tries to download a program of Beam's" in said
    assert len(ids(tmp_path / "out")) == 5
    assert say_of_runner("direct") and say_of_runner("FlinkRunner") is say_of_runner("local") is None


def test_a_runner_that_is_not_installed_or_is_none_is_told_in_a_line(pictures, command, tmp_path):
    for runner in ("NoSuchRunner", "no.such.Runner"):
        words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--runner", runner)
        status, _, said = command(*words)
        assert status == 2 and said.count("\n") == 1


DRY = (
    "--dry_run=True",
    "--project=some-project",
    "--region=europe-west4",
    "--temp_location=gs://some-bucket/temporary",
)


def test_a_dry_run_for_dataflow_starts_nothing_and_leaves_nothing(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", "--gpu", "nvidia-l4")
    status, said, _ = command(*words, "--runner", "DataflowRunner", "--sdk_container_image=workers", *DRY)
    assert status == 0 and "nothing was started" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_that_would_be_none_is_refused(pictures, command, tmp_path):
    words = ("annotate", pictures, "--output", tmp_path / "out", "--model", "tiny", *DRY)
    for runner in ("local", "FnApiRunner"):
        status, _, said = command(*words, "--runner", runner)
        assert status == 2 and said.count("\n") == 1 and f"{runner} would do all of the work" in said
    assert not (tmp_path / "out").exists()
