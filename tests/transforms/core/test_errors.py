"""Errors that stop a run become RunStopped, and their one-line reason is found again."""

from __future__ import annotations

import pytest

from moondream_beam.transforms.core.errors import RunStopped, output_errors, stop_reason
from moondream_beam.transforms.monitoring.memory_errors import out_of_memory_errors


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
    with pytest.raises(RunStopped, match=message), out_of_memory_errors():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("no"), RunStopped("stopped: out of memory"), KeyError("out of memory")])
def test_other_errors_pass_out_of_memory_errors_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, out_of_memory_errors():
        raise error
    assert raised.value is error
