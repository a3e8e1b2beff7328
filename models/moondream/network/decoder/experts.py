"""The mixture of experts of Moondream 3: a router chooses experts for each token, and their outputs are summed.

Letters of the shapes: N tokens, K chosen experts of a token, E experts, M = N * K choices, C channels, I inner and O
output channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import MoeConfig

# A gather copies the weights of each choice, so that it wins only where all copies fit into a cache of the CPU. Weights
# copied at the crossover, by benchmarks/engine/experts.py: for float32, and for 16 bits.
MAX_GATHERED_WEIGHTS = {4: 400_000, 2: 3_000_000}
# Bytes of a tensor of sorted rows on a CPU. The C library maps larger ones anew each time, and the page faults of a
# prefill take as long as the products.
MAX_PART_BYTES = 1 << 18


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
        """Return the product of each row with the matrix of its expert, ``[M, O]``. ``experts_M`` is sorted."""
        weight = self.weight.to(x_MC.dtype)
        if _has_grouped_mm(x_MC):
            # A count of the choices would wait for the device, and a CUDA graph must not.
            experts_E = torch.arange(len(weight), device=experts_M.device)
            ends_E = torch.searchsorted(experts_M, experts_E, right=True, out_int32=True)
            out = F.grouped_mm(x_MC, weight.transpose(1, 2), offs=ends_E)
        else:
            counts_E = torch.bincount(experts_M, minlength=len(weight))
            parts = zip(x_MC.split(counts_E.tolist()), weight, strict=True)
            out = torch.cat([part @ matrix.T for part, matrix in parts])
        return self._scaled(out, experts_M)

    def multiply_into(self, out_MO: Tensor, x_MC: Tensor, experts_M: Tensor, first: int, counts: Sequence[int]) -> None:
        """Write the same to ``out_MO``, for ``counts`` rows of each expert from the expert ``first`` on.

        For many rows on a CPU this is faster than ``grouped_mm``. Float8 is converted for one expert after the other.
        """
        weights = self.weight[first : first + len(counts)].transpose(1, 2).unbind()
        for count, rows, weight, out in zip(counts, x_MC.split(counts), weights, out_MO.split(counts), strict=True):
            if count:
                torch.mm(rows, weight.to(x_MC.dtype) if self.float8 else weight, out=out)
        if self.float8:
            out_MO.mul_(self.scale[experts_M])

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
        tokens_M = order_M // chosen_NK.shape[1]
        widest = max(x_NC.shape[1], 2 * self.config.expert_inner_dim) * len(order_M) * x_NC.itemsize
        if x_NC.device.type == "cpu" and widest > MAX_PART_BYTES:
            size = max(1, self.config.num_experts * MAX_PART_BYTES // widest)
            return self._mix_in_parts(x_NC, experts_M, tokens_M, shares_NK.flatten().index_select(0, order_M), size)
        inner_MI = self.fc1.multiply_sorted(x_NC.index_select(0, tokens_M), experts_M)
        out_MC = self.fc2.multiply_sorted(_activate(inner_MI), experts_M)
        unsorted_MC = torch.empty_like(out_MC).index_copy_(0, order_M, out_MC)
        return torch.bmm(shares_NK[:, None], unsorted_MC.view(*chosen_NK.shape, -1))[:, 0]

    def _mix_in_parts(self, x_NC: Tensor, experts_M: Tensor, tokens_M: Tensor, shares_M: Tensor, size: int) -> Tensor:
        """Return the sums, for choices sorted by expert, in groups of ``size`` experts."""
        counts = torch.bincount(experts_M, minlength=self.config.num_experts).tolist()
        groups = [counts[first : first + size] for first in range(0, self.config.num_experts, size)]
        parts = [tensor.split([sum(group) for group in groups]) for tensor in (experts_M, tokens_M, shares_M)]
        sums_NC = torch.zeros_like(x_NC, dtype=torch.float32)
        for index, (group, experts, tokens, shares) in enumerate(zip(groups, *parts, strict=True)):
            rows_MC = x_NC.index_select(0, tokens)
            inner_MI = x_NC.new_empty(len(tokens), 2 * self.config.expert_inner_dim)
            self.fc1.multiply_into(inner_MI, rows_MC, experts, index * size, group)
            self.fc2.multiply_into(rows_MC, _activate(inner_MI), experts, index * size, group)
            sums_NC.index_add_(0, tokens, rows_MC.float().mul_(shares[:, None]))
        return sums_NC.to(x_NC.dtype)

    def mix_gathered(self, x_NC: Tensor, shares_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """Return the same as ``mix_sorted``, by a copy of the weights of each choice."""
        experts_M = chosen_NK.flatten()
        inner_MI = self.fc1.multiply_gathered(x_NC.repeat_interleave(chosen_NK.shape[1], 0), experts_M)
        out_MC = self.fc2.multiply_gathered(_activate(inner_MI), experts_M)
        return torch.bmm(shares_NK[:, None], out_MC.view(*chosen_NK.shape, -1))[:, 0]


def _has_grouped_mm(x: Tensor) -> bool:
    """Return whether PyTorch multiplies groups of rows on this device in this dtype. On CUDA it documents only one."""
    if x.device.type == "cuda":
        return x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (8, 0)
    return x.device.type == "cpu"


def _activate(inner_MI: Tensor) -> Tensor:
    """Return gelu(u) * (g + 1), with the exact GELU. u is the first half of the channels and g is the second half."""
    u, g = inner_MI.chunk(2, dim=-1)
    activated = F.gelu(u)
    return activated.addcmul_(activated, g)
