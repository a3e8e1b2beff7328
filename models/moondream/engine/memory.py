"""How many slots fit into the free memory of a device."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from ..network.config import MoondreamConfig

# Shares of the free memory. A CPU has other processes; an accelerator's allocator loses some memory between blocks.
CPU_SHARE, ACCELERATOR_SHARE = 0.25, 0.9
# With more slots the time of a step grows as fast as their number.
MAX_SLOTS = 64
SLOTS_PER_PREFILL_ROW = 4
CGROUP = Path("/sys/fs/cgroup")


def slots_that_fit(memory: int, config: MoondreamConfig, num_positions: int, dtype: torch.dtype) -> int:
    """Return how many slots of ``num_positions`` positions fit into ``memory`` bytes: from 1 to ``MAX_SLOTS``.

    Each prefill row is counted twice: once in the cache, and once for its image prefix. The result is 1 even if the
    memory is too small; the allocation fails then.
    """
    text = config.text
    row_bytes = 2 * text.n_layers * text.n_kv_heads * text.head_dim * num_positions * dtype.itemsize
    fitting = [
        slots for slots in range(1, MAX_SLOTS + 1) if (slots + 2 * num_prefill_rows(slots)) * row_bytes <= memory
    ]
    return max(fitting, default=1)


def num_prefill_rows(slots: int) -> int:
    """Return the number of rows that are prefilled at once: a quarter of the number of slots, and at least 1."""
    return max(1, slots // SLOTS_PER_PREFILL_ROW)


def free_memory(device: torch.device, config: MoondreamConfig, crops: int, dtype: torch.dtype) -> int:
    """Return the bytes for a KV cache on this device: a share of its free memory, minus a pass of ``crops`` crops."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        share = ACCELERATOR_SHARE * (free + unused)
    elif device.type == "mps":
        limit, allocated = torch.mps.recommended_max_memory(), torch.mps.current_allocated_memory()
        share = ACCELERATOR_SHARE * (limit - allocated)
    else:
        share = CPU_SHARE * min(psutil.virtual_memory().available, _free_container_memory(CGROUP))
    # Activations of one block of the vision encoder: input, norm and qkv, and the inner layer of the MLP twice.
    vision = config.vision
    activations = crops * vision.grid**2 * (5 * vision.enc_dim + 2 * vision.enc_ff_dim) * dtype.itemsize
    return max(0, int(share) - activations)


def _free_container_memory(cgroup: Path) -> float:
    """Return the bytes below the memory limit of this container; infinity if there is no limit or no cgroup."""
    try:
        return float((cgroup / "memory.max").read_text()) - float((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
