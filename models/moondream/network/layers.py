"""The two layers that the vision encoder and the decoder share. After moondream/torch/layers.py @ 44146f1."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Two linear layers with a GELU between them. ``gelu``: "tanh" for its approximation, "none" for the exact one."""

    def __init__(self, dim: int, inner_dim: int, out_dim: int, gelu: str = "tanh") -> None:
        super().__init__()
        self.gelu = gelu
        self.fc1 = nn.Linear(dim, inner_dim)
        self.fc2 = nn.Linear(inner_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., dim]`` to ``[..., out_dim]``."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))
        return out


class AttentionWeights(nn.Module):
    """The weights of an attention layer: ``qkv`` for queries, keys and values in one product, and ``proj`` after it."""

    def __init__(self, dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, qkv_dim)
        self.proj = nn.Linear(dim, dim)
