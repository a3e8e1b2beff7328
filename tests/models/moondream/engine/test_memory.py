"""There are as many slots as fit into the free memory of the device."""

import pytest
import torch

from moondream_beam.models.moondream.engine.memory import (
    MAX_SLOTS,
    _free_container_memory,
    free_memory,
    num_prefill_rows,
    slots_that_fit,
)
from moondream_beam.models.moondream.network.config import MoondreamConfig

CPU, BFLOAT16 = torch.device("cpu"), torch.bfloat16
# Keys and values of 24 layers, 32 heads, 64 channels, 1024 positions, 2 bytes.
ROW = 2 * 24 * 32 * 64 * 1024 * 2


def fitting(memory):
    return slots_that_fit(memory, MoondreamConfig(), 1024, BFLOAT16)


@pytest.mark.parametrize(
    "rows, slots", [(0, 1), (2.9, 1), (3, 1), (4, 2), (16, 11), (48, 32), (96, 64), (1000, MAX_SLOTS)]
)
def test_slots_prefill_rows_and_prefixes_fit_into_memory_together(rows, slots):
    assert fitting(rows * ROW) == slots
    assert slots == 1 or (slots + 2 * num_prefill_rows(slots)) * ROW <= rows * ROW


def test_longer_or_more_precise_rows_give_fewer_slots():
    memory = 20 * ROW
    assert slots_that_fit(memory, MoondreamConfig(), 2048, BFLOAT16) < fitting(memory)
    assert slots_that_fit(memory, MoondreamConfig(), 1024, torch.float32) < fitting(memory)


def test_activations_of_the_encoder_are_subtracted_from_free_memory():
    config = MoondreamConfig()
    few, many = (free_memory(CPU, config, crops, torch.float32) for crops in (1, 9))
    assert few - many == pytest.approx(8 * 729 * (5 * 1152 + 2 * 4304) * 4, abs=64 << 20)


def test_free_container_memory_is_its_limit_minus_its_use(tmp_path):
    assert _free_container_memory(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert _free_container_memory(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _free_container_memory(tmp_path) == 900
