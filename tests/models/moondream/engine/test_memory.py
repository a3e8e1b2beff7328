"""There are as many slots as fit into the free memory of the device."""

import pytest
import torch

from moondream_beam.models.moondream.engine.memory import (
    MOST_SLOTS,
    _container_memory,
    free_memory,
    slots_that_fit,
    spare_rows,
)
from moondream_beam.models.moondream.network.config import MoondreamConfig

CPU, BFLOAT16 = torch.device("cpu"), torch.bfloat16
# Keys and values of 24 layers, 32 heads, 64 channels, 1024 positions, 2 bytes.
ROW = 2 * 24 * 32 * 64 * 1024 * 2


def fitting(memory):
    return slots_that_fit(memory, MoondreamConfig(), 1024, BFLOAT16)


@pytest.mark.parametrize(
    "rows, slots", [(0, 1), (2.9, 1), (3, 1), (4, 2), (16, 11), (48, 32), (96, 64), (1000, MOST_SLOTS)]
)
def test_slots_spare_rows_and_prefixes_fit_together(rows, slots):
    assert fitting(rows * ROW) == slots
    assert slots == 1 or (slots + 2 * spare_rows(slots)) * ROW <= rows * ROW


def test_a_wider_or_more_precise_cache_has_fewer_slots():
    memory = 20 * ROW
    assert slots_that_fit(memory, MoondreamConfig(), 2048, BFLOAT16) < fitting(memory)
    assert slots_that_fit(memory, MoondreamConfig(), 1024, torch.float32) < fitting(memory)


def test_what_the_encoder_needs_is_not_given_away():
    config = MoondreamConfig()
    few, many = (free_memory(CPU, config, crops, torch.float32) for crops in (1, 9))
    assert few - many == pytest.approx(8 * 729 * (5 * 1152 + 2 * 4304) * 4, abs=64 << 20)


def test_a_container_has_no_more_than_its_limit(tmp_path):
    assert _container_memory(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert _container_memory(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _container_memory(tmp_path) == 900
