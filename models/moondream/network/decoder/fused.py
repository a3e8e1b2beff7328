"""The weights of a dense block's attention and MLP side by side: two products take the place of four.

Letters of the shapes: B rows, T new tokens, C channels, I inner channels of the MLP.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layers import MLP, AttentionWeights


class FusedWeights(NamedTuple):
    """The layers that read the norm of a block in one matrix, and the layers whose sum the block adds in another.

    ``in_weight``: rows of ``attn.qkv``, then of ``mlp.fc1``. ``out_weight``: columns of ``attn.proj``, then of
    ``mlp.fc2``. ``out_bias``: the sum of both biases.
    """

    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    qkv_dim: int
    gelu: str

    @classmethod
    def of(cls, attn: AttentionWeights, mlp: MLP) -> FusedWeights:
        """Fuse the layers of a block. Their weights, and the biases of the first two, become views of the result."""
        qkv, fc1, proj, fc2 = attn.qkv, mlp.fc1, attn.proj, mlp.fc2
        with torch.inference_mode(False), torch.no_grad():
            fused = cls(
                torch.cat([qkv.weight, fc1.weight]),
                torch.cat([qkv.bias, fc1.bias]),
                torch.cat([proj.weight, fc2.weight], dim=1),
                proj.bias + fc2.bias,
                len(qkv.weight),
                mlp.gelu,
            )
        qkv.weight.data, fc1.weight.data = fused.in_weight[: fused.qkv_dim], fused.in_weight[fused.qkv_dim :]
        qkv.bias.data, fc1.bias.data = fused.in_bias[: fused.qkv_dim], fused.in_bias[fused.qkv_dim :]
        dim = proj.weight.shape[1]
        proj.weight.data, fc2.weight.data = fused.out_weight[:, :dim], fused.out_weight[:, dim:]
        return fused

    def project(self, normed_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries, keys and values ``[B, T, C]``, and the inner channels of the MLP ``[B, T, I]``."""
        out = F.linear(normed_BTC, self.in_weight, self.in_bias)
        return out[..., : self.qkv_dim], out[..., self.qkv_dim :]

    def combine(self, attended_BTC: Tensor, inner_BTI: Tensor) -> Tensor:
        """Return the projection of what was attended to plus the output of the MLP, ``[B, T, C]``."""
        joined = torch.cat([attended_BTC, F.gelu(inner_BTI, approximate=self.gelu)], dim=-1)
        return F.linear(joined, self.out_weight, self.out_bias)
