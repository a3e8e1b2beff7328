"""Devices and precisions by name, and the test whether an error means that a device ran out of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .names import DTYPE_NAMES, check_device


class DeviceTooSmall(RuntimeError):
    """The free memory of a device does not hold the weights. The message says what would."""


class DeviceMissing(RuntimeError):
    """This machine has no device of that name, or has it no longer."""


# Takes work on fixed tensors, and returns a function that repeats the work.
Recorder = Callable[[Callable[[], None]], Callable[[], object]]
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


def choose_device(device: str) -> torch.device:
    """Return the device of that name on this machine. ``"auto"`` is the first that exists of cuda, mps and cpu.

    Raises:
        ValueError: if ``check_device`` refuses the name.
        DeviceMissing: if this machine has no such device.
    """
    check_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceMissing(f"device {device}: this machine has no CUDA device that PyTorch can use; choose cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceMissing(f"device {device}: this machine has {count} CUDA devices; choose cuda:N with N < {count}")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceMissing(f"device {device}: this machine has no Metal device; choose cpu")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the precision of that name.

    ``"auto"`` is float32 on a CPU, bfloat16 on a CUDA device that supports it, and float16 on all others.

    Raises:
        ValueError: if the name is neither auto nor one of ``DTYPES``.
    """
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: choose auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports a failed allocation, on any device.

    True for torch.OutOfMemoryError and MemoryError, and for a RuntimeError whose text says so: PyTorch raises no type
    of its own for the memory of a CPU, of Metal, and of cuBLAS and cuDNN.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # "_status_alloc_failed": cuBLAS and cuDNN, which allocate their workspaces themselves.
    words = ("not enough memory", "can't allocate memory", "out of memory", "_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def is_device_lost(error: BaseException) -> bool:
    """Return whether an error means that a GPU has failed, such that this process can't use that GPU any more.

    The memory of a process on a GPU is lost with the first error of a kernel, of the driver or of the hardware (XID).
    """
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def synchronize(device: torch.device) -> None:
    """Wait, without a time limit, until a GPU has run its queue, so that measured times are right. Skip a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device. The host does not wait for the work that the device has queued."""
    # From pageable memory, the copy would wait for all work before it.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def from_host(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a tensor of numbers on a device. The host does not wait; see ``upload``."""
    return upload(torch.tensor(numbers, dtype=dtype), device)


class HostCopy:
    """A copy of a tensor on its way to the host, which need not wait for the copy before it queues other work."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._copy, self._event = tensor, None
        if tensor.device.type == "cuda":
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def tolist(self) -> list[list[float]]:
        """Wait for the copy, and return its numbers."""
        if self._event is not None:
            self._event.synchronize()
        found: list[list[float]] = self._copy.tolist()
        return found
