"""The vision encoder: crops to features, and the features of one picture to embeddings of the decoder.

After moondream/torch/vision.py @ 44146f1. Letters of the shapes: B pictures, N crops, T patches, C channels, H heads,
D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import VisionConfig
from .crops import Tiling, merge_crops
from .layers import MLP, AttentionWeights


class VisionBlock(nn.Module):
    """A pre-norm transformer block in which every patch attends to all patches of its crop."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.n_heads = config.enc_n_heads
        self.ln1 = nn.LayerNorm(config.enc_dim, config.norm_eps)
        self.attn = AttentionWeights(config.enc_dim, 3 * config.enc_dim)
        self.ln2 = nn.LayerNorm(config.enc_dim, config.norm_eps)
        self.mlp = MLP(config.enc_dim, config.enc_ff_dim, config.enc_dim, config.gelu)

    def forward(self, hidden_NTC: Tensor) -> Tensor:
        """Map ``[N, T, C]`` to ``[N, T, C]``."""
        qkv = self.attn.qkv(self.ln1(hidden_NTC)).unflatten(-1, (3, self.n_heads, -1))
        q_NHTD, k_NHTD, v_NHTD = qkv.permute(2, 0, 3, 1, 4)
        attended_NTC = F.scaled_dot_product_attention(q_NHTD, k_NHTD, v_NHTD).transpose(1, 2).flatten(2)
        hidden_NTC = hidden_NTC + self.attn.proj(attended_NTC)
        out: Tensor = hidden_NTC + self.mlp(self.ln2(hidden_NTC))
        return out


class Vision(nn.Module):
    """The encoder of crops and the projection to the decoder."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        patch_dim = config.in_channels * config.enc_patch_size**2
        self.patch_emb = nn.Linear(patch_dim, config.enc_dim)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.grid**2, config.enc_dim))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.enc_n_layers))
        self.post_ln = nn.LayerNorm(config.enc_dim, config.norm_eps)
        self.proj_mlp = MLP(config.proj_in_dim, config.proj_inner_dim, config.proj_out_dim, config.gelu)

    def encode(self, pixels_NCHW: Tensor) -> Tensor:
        """Return the features ``[N, T, C]`` of crops in [-1, 1]. The crops may belong to any pictures."""
        patch, grid = self.config.enc_patch_size, self.config.grid
        # A patch is flattened in the order channel, row, column.
        patches = pixels_NCHW.unflatten(3, (grid, patch)).unflatten(2, (grid, patch))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        hidden_NTC = self.patch_emb(patches) + self.pos_emb
        for block in self.blocks:
            hidden_NTC = block(hidden_NTC)
        out: Tensor = self.post_ln(hidden_NTC)
        return out

    def project(self, features_NTC: Tensor, tilings: Sequence[Tiling]) -> Tensor:
        """Return the image embeddings ``[B, T, text dim]`` of B pictures.

        ``features_NTC`` holds the features of all crops, picture after picture. ``tilings`` has one tiling a picture.
        """
        counts = [num_crops(tiling) for tiling in tilings]
        merged = [
            merge_crops(crops, tiling, self.config)
            for crops, tiling in zip(features_NTC.split(counts), tilings, strict=True)
        ]
        out: Tensor = self.proj_mlp(torch.stack(merged))
        return out


def num_crops(tiling: Tiling) -> int:
    """Return the number of crops of a picture: 1 for a tiling of 1 x 1, else the global crop and all tiles."""
    tiles = tiling.rows * tiling.columns
    return 1 if tiles == 1 else 1 + tiles
