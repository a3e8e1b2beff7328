"""Fused weights: two products in the place of four, with equal outputs."""

import copy

import pytest
import torch

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.decoder.text import Text


@pytest.fixture
def pair(make_toy):
    """A decoder with fused weights, and the same with separate ones."""
    fused = Checkpoint.at(make_toy()).load(torch.device("cpu"), torch.float32).text
    separate = copy.deepcopy(fused)
    for block in separate.blocks:
        block.fused = None
    return fused, separate


def decoded(text: Text, embeds):
    """Five tokens at once and three one by one, through a cache."""
    cache = KVCache.empty(text.config, len(embeds), 9, like=embeds)
    parts = [(0, 5), (5, 6), (6, 7), (7, 8)]
    causal, positions = torch.ones(8, 8).tril().bool()[None, None], torch.arange(8).expand(len(embeds), -1)
    return torch.cat(
        [
            text(embeds[:, a:b], positions[:, a:b], causal[:, :, a:b, :b].expand(len(embeds), -1, -1, -1), cache)
            for a, b in parts
        ],
        dim=1,
    )


def test_fused_weights_give_the_outputs_of_separate_ones(pair):
    fused, separate = pair
    embeds = torch.randn(3, 8, fused.config.dim, generator=torch.Generator().manual_seed(0))
    assert all(block.fused is not None for block in fused.blocks)
    assert torch.allclose(decoded(fused, embeds), decoded(separate, embeds), atol=1e-5)


def test_the_parameters_share_the_memory_of_the_fused_weights(pair):
    for block in pair[0].blocks:
        held = {tensor.untyped_storage().data_ptr() for tensor in block.fused[:3]}
        parts = (
            block.attn.qkv.weight,
            block.attn.qkv.bias,
            block.mlp.fc1.weight,
            block.mlp.fc2.weight,
            block.attn.proj.weight,
        )
        assert {part.untyped_storage().data_ptr() for part in parts} == held


def test_names_and_values_of_the_parameters_stay(pair, make_toy):
    fused, config = pair[0], pair[0].config
    plain = Text(config)
    plain.load_state_dict(fused.state_dict())
    assert all(torch.equal(value, fused.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_change_of_the_dtype_reaches_the_fused_weights(pair):
    fused, separate = (text.bfloat16() for text in pair)
    embeds = torch.randn(3, 8, fused.config.dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    ours, theirs = decoded(fused, embeds), decoded(separate, embeds)
    assert ours.dtype == torch.bfloat16 and (ours - theirs).norm() / theirs.norm() < 0.02
