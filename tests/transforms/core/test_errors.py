"""Errors that stop a run become RunStopped, and their one-line reason is found again."""

from __future__ import annotations

import pytest
import torch

from moondream_beam.models.moondream.devices import DeviceMissing, DeviceTooSmall
from moondream_beam.transforms.core.errors import RunStopped, output_errors, stop_reason
from moondream_beam.transforms.monitoring.device_errors import device_errors, device_failure


def test_stop_reason_finds_the_cause_of_another_error() -> None:
    try:
        try:
            raise RunStopped("stopped: the disk is full")
        except RunStopped as error:
            raise RuntimeError(f"{error} [while running 'Annotate']") from error
    except RuntimeError as error:
        assert stop_reason(error) == "stopped: the disk is full"


def test_stop_reason_finds_the_traceback_of_a_worker_process() -> None:
    text = (
        "Traceback (most recent call last):\n  File ...\n"
        "moondream_beam.transforms.core.errors.RunStopped: stopped: the disk is full [while running 'Annotate']\n\nmore"
    )
    assert stop_reason(RuntimeError(text)) == "stopped: the disk is full"


def test_other_errors_have_no_stop_reason() -> None:
    assert stop_reason(RuntimeError("stopped: not on purpose")) is None
    assert stop_reason(None) is None


def test_an_error_of_the_output_stops_the_run() -> None:
    message = r"can't write to /out: \[Errno 28\] full\. .* run the same command again"
    with pytest.raises(RunStopped, match=message), output_errors("/out"):
        raise OSError(28, "full")
    with pytest.raises(KeyError), output_errors("/out"):
        raise KeyError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: 5 bytes"),
    ],
)
def test_exhausted_memory_stops_the_run(error: Exception) -> None:
    message = r"no memory left\. Use fewer --workers or a smaller --batch-size, then run the same command again"
    with pytest.raises(RunStopped, match=message), device_errors():
        raise error


def test_a_gpu_that_fails_stops_the_run_in_one_line() -> None:
    error = torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
    message = r"GPU .*unspecified launch failure\. .*same command again"
    with pytest.raises(RunStopped, match=message) as stopped, device_errors():
        raise error
    assert "\n" not in str(stopped.value) and "reported later" not in str(stopped.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.AcceleratorError("CUDA error: an illegal access\nmore"), "CUDA error: an illegal access"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (DeviceTooSmall("model x: cuda has 1.0 GB free"), "model x: cuda has 1.0 GB free"),
        (DeviceMissing("device cuda: none"), "device cuda: none"),
        # All workers of a machine share its main memory.
        (MemoryError(), None),
        (RuntimeError("can't start new thread"), None),
    ],
)
def test_only_a_device_that_failed_is_a_reason_to_use_others(error: Exception, reason: str | None) -> None:
    with pytest.raises(RunStopped) as stopped, device_errors():
        raise error
    assert device_failure(stopped.value) == reason
    assert device_failure(RunStopped("stopped: the disk is full")) is None and device_failure(error) is None


@pytest.mark.parametrize("error", [RuntimeError("no"), RunStopped("stopped: out of memory"), KeyError("out of memory")])
def test_other_errors_pass_device_errors_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, device_errors():
        raise error
    assert raised.value is error
