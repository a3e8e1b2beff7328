"""Devices and precisions are chosen by name, and a missing one is an error."""

import pytest
import torch

from moondream_beam.models.moondream.devices import choose_device, choose_dtype, is_out_of_memory
from moondream_beam.models.moondream.names import check_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """Pretend that this machine has these devices."""

    def machine(cuda=0, mps=False, bfloat16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return machine


@pytest.mark.parametrize("name", ["banana", "meta", "xpu", "CPU", "cuda:", "cuda:x", "cpu:0", ""])
def test_an_unknown_device_is_refused_with_the_choices(name):
    with pytest.raises(ValueError, match="choose auto, cpu, cuda, cuda:N or mps"):
        check_device(name)
    with pytest.raises(ValueError, match="choose auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize("has, chosen", [({"cuda": 1, "mps": True}, "cuda"), ({"mps": True}, "mps"), ({}, "cpu")])
def test_auto_takes_the_first_available_device(machine, has, chosen):
    machine(**has)
    assert choose_device("auto").type == chosen


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_missing_device_is_refused_and_not_replaced_by_the_cpu(machine, name):
    machine()
    check_device(name)
    with pytest.raises(RuntimeError, match=f"device {name}: this machine has no .* choose cpu"):
        choose_device(name)


def test_a_device_number_beyond_the_last_is_refused(machine):
    machine(cuda=2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(RuntimeError, match="device cuda:2: this machine has 2 CUDA devices"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    "device, bfloat16, chosen",
    [
        (CPU, True, torch.float32),
        (CUDA, True, torch.bfloat16),
        (CUDA, False, torch.float16),
        (torch.device("mps"), True, torch.float16),
    ],
)
def test_auto_takes_the_best_precision_of_the_device(machine, device, bfloat16, chosen):
    machine(cuda=1, bfloat16=bfloat16)
    assert choose_dtype("auto", device) == chosen


def test_a_named_precision_is_used_on_any_device():
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float32", CUDA) == torch.float32


def test_an_unknown_precision_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="dtype int8: choose auto, float32, bfloat16, float16"):
        choose_dtype("int8", CPU)


def test_failed_allocations_of_every_device_are_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert is_out_of_memory(RuntimeError("CUDA driver error: Out of memory"))
    assert is_out_of_memory(MemoryError())


def test_other_errors_are_not_out_of_memory():
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
