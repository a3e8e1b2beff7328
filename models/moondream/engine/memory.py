"""How many slots fit into the free memory of a device, and whether the weights fit."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil
import torch

from ..checkpoints.weights import MoondreamModel, Traits
from ..devices import DeviceTooSmall
from ..names import FLOAT8, MEMORY_LOGGER
from ..network.config import MoondreamConfig
from ..network.decoder.cache import KVCache

# Fractions of the free memory for a KV cache. A CPU has other processes; an accelerator's allocator loses some memory
# between blocks.
CPU_SHARE, ACCELERATOR_SHARE = 0.25, 0.9
# With more slots the time of a step grows as fast as their number.
MAX_SLOTS = 64
SLOTS_PER_PREFILL_ROW = 4
# Rows of the KV cache of one slot: to decode in, to prefill, and for the prefix.
MIN_ROWS = 3
HALF = torch.bfloat16
CGROUP = Path("/sys/fs/cgroup")

logger = logging.getLogger(MEMORY_LOGGER)


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
    """Return the bytes that a KV cache may take on this device, 0 or more.

    They are ``CPU_SHARE`` or ``ACCELERATOR_SHARE`` of the free memory, minus the activations of a pass of the
    vision encoder with ``crops`` crops.
    """
    share = available_memory(device) * (CPU_SHARE if device.type == "cpu" else ACCELERATOR_SHARE)
    # Activations of one block of the vision encoder: input, norm and qkv, and the inner layer of the MLP twice.
    vision = config.vision
    activations = crops * vision.grid**2 * (5 * vision.enc_dim + 2 * vision.enc_ff_dim) * dtype.itemsize
    return max(0, int(share) - activations)


def available_memory(device: torch.device) -> int:
    """Return the bytes of free memory of a device, with what this process has reserved and does not use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return int(min(psutil.virtual_memory().available, _free_container_memory(CGROUP)))


def check_memory(model: str, traits: Traits, dtype: torch.dtype, device: torch.device, available: int) -> None:
    """Check that ``available`` bytes hold the weights of ``model`` and the cache of one request.

    Raises:
        DeviceTooSmall: if they do not. The message names what would fit.
    """

    def needed(traits: Traits, dtype: torch.dtype) -> int:
        return traits.weight_bytes(dtype) + MIN_ROWS * traits.prefix_numbers * dtype.itemsize

    if needed(traits, dtype) <= available:
        return
    cures = [f"choose a device with {needed(traits, dtype) / 1e9:.1f} GB free"]
    if dtype.itemsize > HALF.itemsize and (fewer := needed(traits, HALF)) <= available:
        cures.append(f"give --dtype bfloat16 ({fewer / 1e9:.1f} GB)")
    if traits.num_in_experts and not traits.is_float8:
        smallest = needed(traits._replace(is_float8=True), HALF)
        if smallest <= available:
            cures.append(f"choose --model {FLOAT8} with --dtype bfloat16 ({smallest / 1e9:.1f} GB)")
    size, kind = f"{needed(traits, dtype) / 1e9:.1f} GB", str(dtype).removeprefix("torch.")
    raise DeviceTooSmall(
        f"model {model}: the weights need {size} in {kind}, and {device} has {available / 1e9:.1f} GB free; "
        + ", or ".join(cures)
    )


def log_memory(model: MoondreamModel, num_slots: int, cache: KVCache) -> None:
    """Log the batch size that was chosen, and what the weights, the KV cache and this process take."""
    weights, dtype = list(model.state_dict().values()), model.text.wte.dtype
    logger.info(
        "batch size %d: weights %s and cache %s in %s on %s; this process takes %s of main memory",
        num_slots,
        _format_bytes(sum(tensor.nbytes for tensor in weights)),
        _format_bytes(sum(tensor.nbytes for tensor in cache)),
        str(dtype).removeprefix("torch."),
        model.text.wte.device,
        _format_bytes(psutil.Process().memory_info().rss),
    )


def _format_bytes(number: int) -> str:
    """Return a number of bytes as text, such as "3.9 GB" (of 1e9 bytes) or "240 MB"."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _free_container_memory(cgroup: Path) -> float:
    """Return the bytes below the memory limit of this container; infinity if there is no limit or no cgroup."""
    try:
        return float((cgroup / "memory.max").read_text()) - float((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
