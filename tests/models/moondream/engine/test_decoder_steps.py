"""Recorded steps: a few shapes, fixed addresses, and the answers of exact shapes."""

import random

import pytest
import torch
from support.data.golden import MOONDREAM_3, Golden, assert_row_equals

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine.decoder_steps import (
    EagerSteps,
    RecordedSteps,
    cuda_graphs,
    repeat_eagerly,
    row_bucket,
)
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.decoder.cache import KVCache


def test_rows_are_rounded_up_to_few_numbers_within_the_slots():
    assert [row_bucket(rows, 50) for rows in (1, 2, 3, 5, 8, 9, 16, 17, 33, 49, 50)] == [
        *(1, 2, 4, 8, 8, 16, 16, 32, 48, 50, 50)
    ]
    assert [row_bucket(rows, 3) for rows in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("num_slots", [3, 13, None])
def test_recorded_steps_match_the_reference(golden, num_slots):
    runs = random.Random(0).sample(golden.runs, len(golden.runs))
    for row, run in zip(golden.decode(runs, num_slots=num_slots, record=repeat_eagerly), runs, strict=True):
        assert_row_equals(row, run)


@pytest.mark.parametrize("record", [None, repeat_eagerly], ids=["eager", "recorded"])
def test_steps_that_are_read_one_step_late_match_the_reference(golden, record):
    runs = random.Random(1).sample(golden.runs, len(golden.runs))
    rows = golden.decode(runs, num_slots=13, record=record, lags=True)
    for row, run in zip(rows, runs, strict=True):
        assert_row_equals(row, run)


def test_recorded_steps_match_the_reference_of_moondream_3(golden3):
    for row, run in zip(
        golden3.decode(golden3.runs, num_slots=7, record=repeat_eagerly, lags=True), golden3.runs, strict=True
    ):
        assert_row_equals(row, run)


@torch.inference_mode()
def test_each_shape_is_recorded_once_and_its_tensors_keep_their_addresses(toy):
    recorded, config = [], toy.config.text
    cache = KVCache.empty(config, 6, 90, like=toy.model.text.wte)
    embeds = torch.randn(6, config.dim, generator=torch.Generator().manual_seed(0))
    steps = RecordedSteps(toy.model, cache, embeds, 5, lambda work: recorded.append(work) or work)
    addresses = {steps.run(positions).data_ptr() for positions in ([1, 2, 3], [2, 3, 4], [1, 1, 1, 7], [3], [89], [9])}
    # 3 and 4 rows are one bucket, and 1 row another; 90 positions are fewer than a bucket of positions.
    assert len(recorded) == 2 and len(addresses) == 1


@torch.inference_mode()
def test_hidden_states_equal_those_of_exact_shapes(toy):
    config, noise = toy.config.text, torch.Generator().manual_seed(0)
    first = KVCache.empty(config, 6, 90, like=toy.model.text.wte)
    first.heads.copy_(torch.randn(first.heads.shape, generator=noise))
    second, embeds = KVCache(first.heads.clone()), torch.randn(6, config.dim, generator=noise)
    exact = EagerSteps(toy.model, first, embeds)
    recorded = RecordedSteps(toy.model, second, embeds, 5, repeat_eagerly)
    for positions in ([8, 3, 60], [9, 4, 61], [10]):
        assert torch.allclose(exact.run(positions), recorded.run(positions), atol=1e-5)
    assert torch.allclose(first.heads[:, :3], second.heads[:, :3], atol=1e-5)
    # Position 0 of the free slot was written to, and no row of the prefill.
    assert torch.equal(first.heads[:, 3:, :, 1:], second.heads[:, 3:, :, 1:])
    assert torch.equal(first.heads[:, 5], second.heads[:, 5])


def test_a_cpu_runs_exact_shapes_and_says_nothing_of_graphs(toy_folder):
    engine = Engine(Checkpoint.at(toy_folder), torch.device("cpu"), torch.float32, graphs=False)
    assert engine.backend == "local/cpu/float32"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["public", *MOONDREAM_3])
def test_steps_on_a_gpu_match_the_reference(name):
    golden = Golden(name, torch.device("cuda"))
    for record in (None, cuda_graphs(golden.device)):
        rows = golden.decode(golden.runs, num_slots=7, record=record)
        for row, run in zip(rows, golden.runs, strict=True):
            assert_row_equals(row, run)
