"""Where the network runs, and in which precision: chosen aloud, never changed silently."""

from __future__ import annotations

import re

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_device(device: str) -> None:
    """Refuse what is no device's name; whether this machine has that device is not asked: a worker may.

    Raises:
        ValueError: there is no device of that name anywhere.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"device {device}: choose auto, cpu, cuda, cuda:N or mps")


def choose_device(device: str) -> torch.device:
    """The device of that name; ``"auto"`` is the first of cuda, mps and cpu that is here.

    Raises:
        ValueError: there is no device of that name anywhere.
        RuntimeError: this machine has no such device.
    """
    check_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {device}: this machine has no CUDA device that PyTorch can use; choose cpu")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(
            f"device {device}: this machine has {torch.cuda.device_count()} CUDA devices, from cuda:0 on"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise RuntimeError(f"device {device}: this machine has no Metal device; choose cpu")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of that name; ``"auto"`` is float32 on a CPU, else bfloat16 where the chip has it, else float16.

    Raises:
        ValueError: there is no such precision.
    """
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        whole = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if whole else torch.float16
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: choose auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whichever device. The CPU's and Metal's have no type of their own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The last is how cuBLAS and cuDNN call it, whose workspaces are not PyTorch's.
    words = ("not enough memory", "can't allocate memory", "out of memory", "_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
