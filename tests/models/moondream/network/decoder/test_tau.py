"""Tau attention: the factors of queries and values."""

import math

import torch

from moondream_beam.models.moondream.network.decoder.tau import Tau

HEADS, CHANNELS = 3, 24


def random_tau(dtype=torch.float32):
    tau, noise = Tau(HEADS, CHANNELS).requires_grad_(False), torch.Generator().manual_seed(0)
    for part in tau.parameters():
        part.data = torch.randn(part.shape, generator=noise).to(dtype)
    return tau


def test_the_factors_are_those_of_the_formula():
    tau, qkv = random_tau(), torch.randn(2, 5, CHANNELS, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[0, 1, 2, 730, 32767], [7, 8, 9, 10, 11]])
    for factor, weight in zip(tau(qkv, positions), (tau.wq, tau.wv), strict=True):
        assert factor.shape == (2, 5, HEADS, 1)
        for row, head, token in ((0, 0, 0), (0, 2, 3), (0, 1, 4), (1, 2, 4)):
            gelu = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in qkv[row, token].tolist()]
            content = math.tanh(sum(x * w for x, w in zip(gelu, weight[head].tolist(), strict=True)))
            angle = tau.alpha[head].item() * math.log(positions[row, token].item() + 1)
            wanted = content + 0.5 + 1 / (1 + math.exp(-angle))
            assert abs(factor[row, token, head, 0].item() - wanted) < 1e-5


def test_at_position_0_the_factor_of_the_position_is_1():
    tau = random_tau()
    factors = tau(torch.zeros(1, 1, CHANNELS), torch.tensor([[0]]))
    assert all(torch.equal(factor, torch.ones(1, 1, HEADS, 1)) for factor in factors)


def test_in_bfloat16_the_factor_of_the_position_is_computed_in_float32():
    """Rounded once, at the end."""
    tau = random_tau(torch.bfloat16)
    tau.alpha.fill_(0.5)
    q, _ = tau(torch.zeros(1, 1, CHANNELS, dtype=torch.bfloat16), torch.tensor([[730]]))
    wanted = torch.tensor(0.5 + 1 / (1 + math.exp(-0.5 * math.log(731)))).bfloat16()
    assert q.dtype == torch.bfloat16 and torch.equal(q, wanted.expand(1, 1, HEADS, 1))
