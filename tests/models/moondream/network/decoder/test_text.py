"""The decoder: rotary embedding, grouped heads, KV cache."""

import pytest
import torch

from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.network.decoder.cache import KVCache
from moondream_beam.models.moondream.network.decoder.rotary import rotary_table, rotate_in_place
from moondream_beam.models.moondream.network.decoder.text import Text

THETA = 10000.0


def rotated(x, positions):
    """``x [B, T, H, D]`` with the first 8 channels of each head rotated."""
    result = x.clone()
    rotate_in_place(result, rotary_table(2048, 8, THETA, x.device)[positions])
    return result


def test_each_pair_is_rotated_by_its_angle_at_the_position():
    """As complex numbers: channel d is the real part, channel d + half the imaginary one."""
    positions = torch.tensor([[0, 3, 730], [1, 1, 2047]])
    x = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    turned = rotated(x, positions)
    for pair in range(4):
        angle = positions.double() * THETA ** (-2 * pair / 8)
        wanted = torch.complex(x[..., pair], x[..., pair + 4]) * torch.exp(1j * angle)[:, :, None]
        assert torch.allclose(turned[..., pair], wanted.real.float(), atol=1e-4)
        assert torch.allclose(turned[..., pair + 4], wanted.imag.float(), atol=1e-4)
    assert torch.equal(turned[..., 8:], x[..., 8:])


def test_bfloat16_is_rotated_in_float32():
    x, position = torch.randn(1, 1, 1, 16).bfloat16(), torch.tensor([[2000]])
    assert torch.equal(rotated(x, position), rotated(x.float(), position).bfloat16())


def test_grouped_heads_equal_a_network_with_repeated_heads(toy):
    """Two heads share each key and value head; written out, each has its own copy."""
    grouped, config = toy.model.text, toy.config.text
    full = Text(type(config)(**{**vars(config), "n_kv_heads": config.n_heads}))
    state = grouped.state_dict()
    for name in [name for name in state if ".qkv." in name]:
        q, k, v = state[name].split([config.dim, *[config.n_kv_heads * config.head_dim] * 2])
        repeated = [
            part.unflatten(0, (config.n_kv_heads, -1)).repeat_interleave(2, dim=0).flatten(0, 1) for part in (k, v)
        ]
        state[name] = torch.cat([q, *repeated])
    full.load_state_dict(state)
    embeds = torch.randn(2, 7, config.dim, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(7).expand(2, -1)
    assert torch.allclose(grouped(embeds, positions), full(embeds, positions), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_tokens_fed_in_parts_through_a_cache_equal_one_pass(make_toy, kv_heads):
    text = Checkpoint.at(make_toy(n_kv_heads=kv_heads)).load(torch.device("cpu"), torch.float32).text
    embeds = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(2, -1)
    causal = torch.ones(9, 9).tril().bool()[None, None]
    whole = text(embeds, positions, causal)
    cache = KVCache.empty(text.config, 2, 12, like=embeds)
    parts = [
        text(embeds[:, start:end], positions[:, start:end], causal[:, :, start:end, :end], cache)
        for start, end in ((0, 4), (4, 5), (5, 9))
    ]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_prefill_writes_the_same_cache_as_forward(toy, causal):
    text = toy.model.text
    embeds = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(2, -1)
    mask = torch.ones(9, 9).tril().bool()[None, None] if causal else None
    whole, short = (KVCache.empty(text.config, 2, 9, like=embeds) for _ in range(2))
    text(embeds, positions, mask, whole)
    text.prefill(embeds, positions, mask, short)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(short, whole, strict=True))
    assert short.keys[-1].abs().min() > 0
