"""The mixture of experts of Moondream 3: a router chooses experts for each token, and their outputs are summed.

Letters of the shapes: N tokens, K chosen experts of a token, E experts, M = N * K choices, C channels, I inner and O
output channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import MoeConfig

# A gather copies the weights of each choice, so that it wins only where all copies fit into a cache of the CPU. Weights
# copied at the crossover, by benchmarks/engine/experts.py: for float32, and for 16 bits.
MAX_GATHERED_WEIGHTS = {4: 200_000, 2: 3_000_000}


class ExpertWeights(nn.Module):
    """One matrix for each expert, without biases. ``float8``: the matrices are float8, with a float32 scale a row."""

    def __init__(self, num_experts: int, dim: int, out_dim: int, float8: bool) -> None:
        super().__init__()
        self.float8 = float8
        empty = torch.zeros(num_experts, out_dim, dim, dtype=torch.float8_e4m3fn if float8 else None)
        self.weight = nn.Parameter(empty, requires_grad=not float8)
        if float8:
            self.scale = nn.Parameter(torch.zeros(num_experts, out_dim), requires_grad=False)

    def multiply_sorted(self, x_MC: Tensor, experts_M: Tensor) -> Tensor:
        """Return the product of each row with the matrix of its expert, ``[M, out_dim]``. ``experts_M`` is sorted."""
        counts_E = torch.bincount(experts_M, minlength=len(self.weight))
        weight = self.weight.to(x_MC.dtype)
        if x_MC.device.type in ("cpu", "cuda"):
            out = F.grouped_mm(x_MC, weight.transpose(1, 2), offs=counts_E.cumsum(0).int())
        else:
            parts = zip(x_MC.split(counts_E.tolist()), weight, strict=True)
            out = torch.cat([part @ matrix.T for part, matrix in parts])
        return self._scaled(out, experts_M)

    def multiply_gathered(self, x_MC: Tensor, experts_M: Tensor) -> Tensor:
        """Return the same as ``multiply_sorted`` for experts in any order, by a copy of the matrix of each row."""
        # As bytes, because not every device can index float8.
        stored = self.weight.view(torch.uint8) if self.float8 else self.weight
        weight_MOC = stored.index_select(0, experts_M).view(self.weight.dtype).to(x_MC.dtype)
        return self._scaled(torch.bmm(weight_MOC, x_MC[..., None])[..., 0], experts_M)

    def _scaled(self, out_MO: Tensor, experts_M: Tensor) -> Tensor:
        return (out_MO * self.scale[experts_M]).to(out_MO.dtype) if self.float8 else out_MO


class Experts(nn.Module):
    """The router and the experts of one block, in the place of its MLP."""

    def __init__(self, dim: int, config: MoeConfig) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(dim, config.num_experts)
        self.fc1 = ExpertWeights(config.num_experts, dim, 2 * config.expert_inner_dim, config.float8)
        self.fc2 = ExpertWeights(config.num_experts, config.expert_inner_dim, dim, config.float8)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., C]`` to ``[..., C]``."""
        x_NC = x.flatten(0, -2)
        shares_NK, chosen_NK = self.route(x_NC)
        mixed = self.mix_gathered if self.gathers(chosen_NK) else self.mix_sorted
        return mixed(x_NC, shares_NK, chosen_NK).view_as(x)

    def route(self, x_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares and the numbers of the chosen experts of each token. The shares of a token sum to 1."""
        logits_NK, chosen_NK = self.router(x_NC).topk(self.config.experts_per_token, dim=-1)
        return logits_NK.softmax(-1, dtype=torch.float32).to(x_NC.dtype), chosen_NK

    def gathers(self, chosen_NK: Tensor) -> bool:
        """Return whether ``mix_gathered`` is faster than ``mix_sorted`` for these choices.

        Float8 weights are converted first: a gather converts those of each choice, sorted rows those of all experts.
        """
        if self.config.float8:
            return chosen_NK.numel() < self.config.num_experts
        weight = self.fc1.weight
        if weight.device.type != "cpu":
            # Not measured. The reference gathers for one token.
            return len(chosen_NK) == 1
        copied = chosen_NK.numel() * (self.fc1.weight[0].numel() + self.fc2.weight[0].numel())
        return copied <= MAX_GATHERED_WEIGHTS[weight.itemsize]

    def mix_sorted(self, x_NC: Tensor, shares_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """Return the sums of the experts' outputs, ``[N, C]``. The choices are sorted so that each expert runs once."""
        experts_M, order_M = chosen_NK.flatten().sort()
        inner_MI = self.fc1.multiply_sorted(x_NC.index_select(0, order_M // chosen_NK.shape[1]), experts_M)
        out_MC = self.fc2.multiply_sorted(_activate(inner_MI), experts_M)
        places_M = torch.empty_like(order_M)
        places_M[order_M] = torch.arange(len(order_M), device=order_M.device)
        return F.embedding_bag(places_M.view_as(chosen_NK), out_MC, per_sample_weights=shares_NK, mode="sum")

    def mix_gathered(self, x_NC: Tensor, shares_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """Return the same as ``mix_sorted``, by a copy of the weights of each choice."""
        experts_M = chosen_NK.flatten()
        inner_MI = self.fc1.multiply_gathered(x_NC.repeat_interleave(chosen_NK.shape[1], 0), experts_M)
        out_MC = self.fc2.multiply_gathered(_activate(inner_MI), experts_M)
        return torch.bmm(shares_NK[:, None], out_MC.view(*chosen_NK.shape, -1))[:, 0]


def _activate(inner_MI: Tensor) -> Tensor:
    """Return gelu(u) * (g + 1), with the exact GELU. u is the first half of the channels and g is the second half."""
    u, g = inner_MI.chunk(2, dim=-1)
    activated = F.gelu(u)
    return activated.addcmul_(activated, g)
