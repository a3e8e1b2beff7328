"""The mixture of experts: sorted rows and a gather give the outputs of a plain loop over the experts."""

import pytest
import torch
from torch.nn import functional as F

from moondream_beam.models.moondream.network.config import MoeConfig
from moondream_beam.models.moondream.network.decoder import experts as module
from moondream_beam.models.moondream.network.decoder.experts import Experts

DIM = 48
SMALL = MoeConfig(num_experts=16, experts_per_token=4, expert_inner_dim=24)
FLOAT8 = MoeConfig(num_experts=16, experts_per_token=4, expert_inner_dim=24, float8=True)


def experts_of(config, dim=DIM, dtype=torch.float32):
    experts = Experts(dim, config).requires_grad_(False)
    noise = torch.Generator().manual_seed(0)
    for name, part in experts.named_parameters():
        values = torch.randn(part.shape, generator=noise) * part.shape[-1] ** -0.5
        # Scales are positive, and differ by row.
        values = 0.5 + values.abs() if name.endswith("scale") else values
        part.data = values.to(part.dtype if config.float8 and name.startswith("fc") else dtype)
    return experts


def tokens(count, dim=DIM, seed=1):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def loop(experts, x_NC):
    """The oracle: one expert after the other, with its weights in float32."""
    logits, chosen = experts.router(x_NC).float().topk(experts.config.experts_per_token)
    shares, out = logits.softmax(-1), torch.zeros(x_NC.shape)
    first, second = (
        part.weight.float() * (part.scale[..., None] if part.float8 else 1) for part in (experts.fc1, experts.fc2)
    )
    for number in range(experts.config.num_experts):
        for row, place in (chosen == number).nonzero().tolist():
            u, g = (first[number] @ x_NC[row].float()).chunk(2)
            out[row] += shares[row, place] * (second[number] @ (F.gelu(u) * (g + 1)))
    return out


@pytest.mark.parametrize("config", [SMALL, FLOAT8], ids=["float32", "float8"])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 600])
def test_both_ways_equal_a_loop_over_the_experts(config, count):
    experts, x = experts_of(config), tokens(count)
    expected = loop(experts, x)
    assert expected.abs().max() > 0.1
    for mixed in (experts.mix_sorted, experts.mix_gathered):
        assert torch.allclose(mixed(x, *experts.route(x)), expected, atol=1e-5)
    assert torch.allclose(experts(x), expected, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, FLOAT8], ids=["float32", "float8"])
@pytest.mark.parametrize("size", [1, 5000, 20000])
def test_groups_of_experts_equal_all_experts_at_once(config, size, monkeypatch):
    experts, x = experts_of(config), tokens(100)
    # One group has no rows.
    experts.router.bias[4:6] -= 1e6
    whole = experts.mix_sorted(x, *experts.route(x))
    monkeypatch.setattr(module, "MAX_PART_BYTES", size)
    assert torch.allclose(experts.mix_sorted(x, *experts.route(x)), whole, atol=1e-5)
    assert torch.allclose(whole, loop(experts, x), atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, FLOAT8], ids=["float32", "float8"])
def test_the_products_of_accelerators_equal_those_of_a_cpu(config):
    """An accelerator that is not CUDA multiplies the rows of one expert after the other."""
    experts, x = experts_of(config), tokens(100)
    chosen = experts.route(x)[1].flatten()[:100].sort().values
    assert torch.allclose(experts.fc1.multiply_sorted(x, chosen), experts.fc1.multiply_gathered(x, chosen), atol=1e-5)


def test_experts_that_no_token_chooses_are_skipped():
    experts = experts_of(SMALL)
    experts.router.bias[4:] -= 1e6
    x = tokens(20)
    assert set(experts.route(x)[1].flatten().tolist()) == {0, 1, 2, 3}
    assert torch.allclose(experts(x), loop(experts, x), atol=1e-5)


def test_the_shares_of_a_token_are_the_softmax_of_its_largest_logits():
    experts, x = experts_of(SMALL), tokens(5)
    shares, chosen = experts.route(x)
    logits = experts.router(x)
    assert torch.equal(chosen, logits.topk(4).indices)
    assert torch.allclose(shares.sum(-1), torch.ones(5))
    assert torch.allclose(shares[:, 0] / shares[:, 3], (logits.topk(4).values @ torch.tensor([1.0, 0, 0, -1])).exp())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [SMALL, FLOAT8], ids=["16 bits", "float8"])
def test_16_bits_are_close_to_float32(config, dtype):
    experts, x = experts_of(config, dtype=dtype), tokens(30).to(dtype)
    for mixed in (experts.mix_sorted, experts.mix_gathered):
        found = mixed(x, *experts.route(x))
        assert found.dtype == dtype
        expected = loop(experts, x)
        assert (found.float() - expected).norm() / expected.norm() < 0.02


def test_a_token_has_the_same_output_in_any_batch():
    experts, x = experts_of(SMALL), tokens(200)
    together = experts(x)
    for size in (1, 3, 64):
        parts = torch.cat([experts(part) for part in x.split(size)])
        assert torch.allclose(parts, together, atol=1e-5)


def test_batches_of_sequences_keep_their_shape():
    experts, x = experts_of(SMALL), tokens(12).view(3, 4, DIM)
    assert torch.allclose(experts(x), loop(experts, x.flatten(0, 1)).view(3, 4, DIM), atol=1e-5)


@pytest.mark.parametrize(
    "dim, config, count, gathers",
    [
        # The full size copies 50 million weights for one token.
        (2048, MoeConfig(), 1, False),
        (64, MoeConfig(expert_inner_dim=32), 1, True),
        (64, MoeConfig(expert_inner_dim=32), 32, False),
        # Float8 converts all 64 experts, or those of each choice.
        (64, MoeConfig(expert_inner_dim=32, float8=True), 7, True),
        (64, MoeConfig(expert_inner_dim=32, float8=True), 8, False),
        (2048, MoeConfig(float8=True), 7, True),
    ],
)
def test_few_rows_are_gathered(dim, config, count, gathers):
    with torch.device("meta"):
        experts = Experts(dim, config)
    # The rule reads shapes and the device only, so that the weights may be empty views of nothing.
    for part in (experts.fc1, experts.fc2):
        part.weight = torch.nn.Parameter(
            torch.empty(1, dtype=part.weight.dtype).expand(part.weight.shape), requires_grad=False
        )
    assert experts.gathers(torch.zeros(count, config.experts_per_token, dtype=torch.long)) == gathers
