"""One GPU for each worker process, tested without a GPU."""

from __future__ import annotations

import argparse
import os
from types import SimpleNamespace

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from moondream_beam.pipelines.building.models import build_annotator
from moondream_beam.pipelines.local_runner.gpus import (
    assign_gpus,
    choose_gpus,
    cores_of,
    default_workers,
    pin_gpu,
    visible_gpus,
)
from moondream_beam.pipelines.local_runner.runner import local_runner
from moondream_beam.pipelines.options.commands import add_annotate_options


@pytest.mark.parametrize(
    "count, environment, gpus",
    [
        (0, {}, ()),
        (2, {}, ("0", "1")),
        (2, {"CUDA_VISIBLE_DEVICES": "3,5"}, ("3", "5")),
        (1, {"CUDA_VISIBLE_DEVICES": "GPU-1a, MIG-2b"}, ("GPU-1a",)),
        (0, {"CUDA_VISIBLE_DEVICES": "7"}, ()),
        (0, {"CUDA_VISIBLE_DEVICES": ""}, ()),
    ],
)
def test_gpus_are_named_as_in_cuda_visible_devices(count, environment, gpus):
    assert visible_gpus(count, environment) == gpus


def test_each_process_has_a_gpu_of_its_own():
    assert assign_gpus(2, ("0", "1", "2")) == ("0", "1")
    assert assign_gpus(4, ()) == ()
    environments = [{"CUDA_VISIBLE_DEVICES": "3,5"} for _ in range(2)]
    for number, environment in enumerate(environments):
        pin_gpu(f"worker_{number}", ("3", "5"), environment)
    assert environments == [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]


def test_each_process_with_a_gpu_has_its_share_of_the_processors():
    shares = [cores_of(f"worker_{number}", 3, range(10, 18)) for number in (3, 4, 5)]
    assert shares == [{10, 11}, {12, 13}, {14, 15}]
    assert cores_of("worker_2", 3, {4, 5}) == {4, 5}


def test_more_processes_than_gpus_are_refused_with_the_cure():
    with pytest.raises(ValueError, match="--workers 4: this machine has 2 GPUs.* Give --workers 2, or --device cuda:0"):
        assign_gpus(4, ("0", "1"))


@pytest.mark.parametrize("options", [{"workers": 1}, {"device": "cuda:1"}, {"device": "cpu"}, {"backend": "fal"}])
def test_without_several_processes_on_automatic_devices_no_gpu_is_assigned(options, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    args = SimpleNamespace(**{"workers": 2, "device": "auto", "backend": "local", **options})
    assert choose_gpus(args) == ()


@pytest.mark.parametrize(
    ("options", "gpus", "workers"),
    [
        ({}, 4, 4),
        ({}, 1, 1),
        ({}, 0, 1),
        ({"device": "cuda"}, 2, 2),
        ({"device": "cuda:1"}, 4, 1),
        ({"device": "cpu"}, 4, 1),
        ({"backend": "fal"}, 4, 1),
        ({"runner": "FlinkRunner"}, 4, 1),
    ],
)
def test_without_workers_there_is_one_process_for_each_gpu(options, gpus, workers, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    args = SimpleNamespace(**{"runner": "local", "device": "auto", "backend": "local", **options})
    assert default_workers(args) == workers


def describe_worker(_: int) -> str:
    return f"{os.environ['WORKER_ID']} {min(os.sched_getaffinity(0))} {os.environ['CUDA_VISIBLE_DEVICES']}"


@pytest.mark.slow
def test_the_environment_of_each_worker_names_its_gpu(tmp_path):
    options = PipelineOptions([])
    with beam.Pipeline(local_runner(options, 2, ("3", "GPU-5 a")), options=options) as pipeline:
        output = pipeline | beam.Create(range(8)) | beam.Reshuffle() | beam.Map(describe_worker)
        _ = output | beam.io.WriteToText(str(tmp_path / "output"), shard_name_template="")
    lines = set((tmp_path / "output").read_text().splitlines())
    assert {line.split(" ", 2)[2] for line in lines} == {"3", "GPU-5 a"}
    assert len(lines) == 2
    here = os.sched_getaffinity(0)
    assert len({line.split(" ", 2)[1] for line in lines}) == min(2, len(here))


@pytest.mark.parametrize(("workers", "device"), [("2", "cuda"), ("1", "auto")])
def test_a_process_with_a_gpu_of_its_own_does_not_fall_back_to_a_cpu(workers, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    parser = argparse.ArgumentParser()
    add_annotate_options(parser)
    args = parser.parse_args(["photos", "--output", "out", "--model", "tiny", "--workers", workers])
    assert build_annotator(args, 1, here=True).device == device
