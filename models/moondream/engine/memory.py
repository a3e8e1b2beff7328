"""How much memory there is for answers side by side, and whether an error means that there was too little."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from ..network.config import MoondreamConfig

# On a CPU, where other processes need theirs; of an accelerator, what allocators lose between blocks is left.
CPU_SHARE, ACCELERATOR_SHARE = 0.25, 0.9
# More answers side by side bring hardly anything: the time of a step then grows with them.
MOST_SLOTS = 64
# Rows that are prefilled at once, as a part of the slots.
SPARE_PART = 4
CGROUP = Path("/sys/fs/cgroup")


def slots_that_fit(memory: int, config: MoondreamConfig, width: int, dtype: torch.dtype) -> int:
    """How many slots of ``width`` positions so many bytes hold, with their spare rows and the prefixes of those.

    At least one: whether that fits is found by trying.
    """
    text = config.text
    row = 2 * text.n_layers * text.n_kv_heads * text.head_dim * width * dtype.itemsize
    fitting = [slots for slots in range(1, MOST_SLOTS + 1) if (slots + 2 * spare_rows(slots)) * row <= memory]
    return max(fitting, default=1)


def spare_rows(slots: int) -> int:
    """How many rows are prefilled at once."""
    return max(1, slots // SPARE_PART)


def free_memory(device: torch.device, config: MoondreamConfig, crops: int, dtype: torch.dtype) -> int:
    """Bytes that a cache may take on this device, where ``crops`` are encoded in one pass."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        share = ACCELERATOR_SHARE * (free + unused)
    elif device.type == "mps":
        most, taken = torch.mps.recommended_max_memory(), torch.mps.current_allocated_memory()
        share = ACCELERATOR_SHARE * (most - taken)
    else:
        share = CPU_SHARE * min(psutil.virtual_memory().available, _container_memory(CGROUP))
    # What a block of the vision encoder holds at once: its input, norm and qkv, and the inner layer twice.
    vision = config.vision
    workspace = crops * vision.grid**2 * (5 * vision.enc_dim + 2 * vision.enc_ff_dim) * dtype.itemsize
    return max(0, int(share) - workspace)


def _container_memory(cgroup: Path) -> float:
    """Bytes that are left to this container, infinite where it has no limit of its own."""
    try:
        return float((cgroup / "memory.max").read_text()) - float((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
