"""Tau attention of Moondream 3: queries and values are scaled by their content and by their position.

Letters of the shapes: B rows, T new tokens, H heads, C channels of queries, keys and values together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tau(nn.Module):
    """The factors of queries and values, one for each head and token: of the content plus of the position.

    The factor of the position is ``0.5 + sigmoid(alpha * ln(position + 1))``. The position counts from 0.
    """

    def __init__(self, n_heads: int, qkv_dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(n_heads))
        self.wq = nn.Parameter(torch.zeros(n_heads, qkv_dim))
        self.wv = nn.Parameter(torch.zeros(n_heads, qkv_dim))

    def forward(self, qkv_BTC: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of queries and of values, each ``[B, T, H, 1]``. ``qkv_BTC`` is before the rotation."""
        features_BTC = F.gelu(qkv_BTC)
        # In float32: in bfloat16, 4096 positions would have only 188 different logarithms.
        logs_BT1 = torch.log(positions_BT.float() + 1)[..., None]
        position_BTH = 1 + (torch.sigmoid(self.alpha.float() * logs_BT1) - 0.5)
        factors = (torch.tanh(F.linear(features_BTC, weight)) + position_BTH for weight in (self.wq, self.wv))
        q_BTH1, v_BTH1 = (factor.to(qkv_BTC.dtype)[..., None] for factor in factors)
        return q_BTH1, v_BTH1
