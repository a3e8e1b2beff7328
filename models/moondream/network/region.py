"""Coordinates and sizes: from numbers to embeddings, and from hidden states to numbers.

After moondream/torch/region.py @ 44146f1. Letters of the shapes: B rows, C channels, F Fourier features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import RegionConfig
from .layers import MLP

# Sizes lie between 2 ** -10 and 1 of the picture.
SIZE_OCTAVES = 10


class Region(nn.Module):
    """The encoders and decoders of coordinates and sizes. All numbers are fractions of the picture.

    The attribute ``ln``, a norm of the hidden states, exists only if the configuration has a norm.
    """

    ln: nn.LayerNorm

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        self.config = config
        self.coord_features = nn.Parameter(torch.zeros(1, config.coord_feat_dim // 2), requires_grad=False)
        self.size_features = nn.Parameter(torch.zeros(2, config.size_feat_dim // 2), requires_grad=False)
        self.coord_encoder = nn.Linear(config.coord_feat_dim, config.dim)
        self.size_encoder = nn.Linear(config.size_feat_dim, config.dim)
        if config.norm:
            self.ln = nn.LayerNorm(config.dim)
        self.coord_decoder = _decoder(config, config.coord_out_dim)
        self.size_decoder = _decoder(config, config.size_out_dim)

    def encode_coordinate(self, value_B1: Tensor) -> Tensor:
        """Return the embeddings ``[B, C]`` of coordinates in [0, 1], ``[B, 1]``."""
        out: Tensor = self.coord_encoder(_fourier_features(value_B1, self.coord_features))
        return out

    def encode_size(self, size_B2: Tensor) -> Tensor:
        """Return the embeddings ``[B, C]`` of widths and heights in [1/1024, 1], ``[B, 2]``."""
        out: Tensor = self.size_encoder(_fourier_features(size_B2, self.size_features))
        return out

    def decode_coordinate(self, hidden_BC: Tensor) -> Tensor:
        """Return the logits over coordinate bins, ``[B, bins]``, of hidden states before the last norm."""
        out: Tensor = self.coord_decoder(self._normed(hidden_BC))
        return out

    def decode_size(self, hidden_BC: Tensor) -> Tensor:
        """Return the logits over width and height bins, ``[B, 2, bins]``, of hidden states before the last norm."""
        out: Tensor = self.size_decoder(self._normed(hidden_BC))
        return out.unflatten(-1, (2, -1))

    def _normed(self, hidden_BC: Tensor) -> Tensor:
        return self.ln(hidden_BC) if self.config.norm else hidden_BC

    def bins_to_sizes(self, bins: Tensor, count: int) -> Tensor:
        """Return the sizes of bins 0 to count-1, on the logarithmic or linear scale of the checkpoint's generation."""
        return bin_to_size(bins, count) if self.config.size_scale == "log" else bin_to_coordinate(bins, count)


def _decoder(config: RegionConfig, out_dim: int) -> nn.Module:
    if config.inner_dim is None:
        return nn.Linear(config.dim, out_dim)
    return MLP(config.dim, config.inner_dim, out_dim)


def bin_to_coordinate(bins: Tensor, count: int) -> Tensor:
    """Return bin / count: a coordinate in [0, 1) for each bin 0 to count-1."""
    return bins.float() / count


def bin_to_size(bins: Tensor, count: int) -> Tensor:
    """Return 2 ** (bin / (count-1) * 10 - 10): a size in [1/1024, 1] for each bin 0 to count-1."""
    return torch.exp2(bins.float() / (count - 1) * SIZE_OCTAVES - SIZE_OCTAVES)


def _fourier_features(values: Tensor, weights: Tensor) -> Tensor:
    phase_BF = 2 * math.pi * (values.to(weights.dtype) @ weights)
    return torch.cat([phase_BF.cos(), phase_BF.sin()], dim=-1)
