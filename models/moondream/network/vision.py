"""The vision encoder: crops to features, and the features of a picture to the decoder's embeddings.

After moondream/torch/vision.py @ 44146f1. Letters of the shapes: B pictures, N crops, T patches, C channels.
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
    """A pre-norm transformer block in which every patch sees every other."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.n_heads = config.enc_n_heads
        self.ln1 = nn.LayerNorm(config.enc_dim, config.norm_eps)
        self.attn = AttentionWeights(config.enc_dim, 3 * config.enc_dim)
        self.ln2 = nn.LayerNorm(config.enc_dim, config.norm_eps)
        self.mlp = MLP(config.enc_dim, config.enc_ff_dim, config.enc_dim, config.gelu)

    def forward(self, hidden_NTC: Tensor) -> Tensor:
        """``[N, T, C]`` to ``[N, T, C]``."""
        qkv = self.attn.qkv(self.ln1(hidden_NTC)).unflatten(-1, (3, self.n_heads, -1))
        q_NHTD, k_NHTD, v_NHTD = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q_NHTD, k_NHTD, v_NHTD).transpose(1, 2).flatten(2)
        hidden_NTC = hidden_NTC + self.attn.proj(seen)
        out: Tensor = hidden_NTC + self.mlp(self.ln2(hidden_NTC))
        return out


class Vision(nn.Module):
    """Everything between pixels and the image prefix of the decoder."""

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
        """Normalised crops to features ``[N, T, C]``, whatever pictures the crops belong to."""
        patch, grid = self.config.enc_patch_size, self.config.grid
        # Within a patch the channel comes first, then rows, then columns.
        patches = pixels_NCHW.unflatten(3, (grid, patch)).unflatten(2, (grid, patch))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        hidden_NTC = self.patch_emb(patches) + self.pos_emb
        for block in self.blocks:
            hidden_NTC = block(hidden_NTC)
        out: Tensor = self.post_ln(hidden_NTC)
        return out

    def project(self, features_NTC: Tensor, tilings: Sequence[Tiling]) -> Tensor:
        """Features of the crops of B pictures, one after the other, to image embeddings ``[B, T, text dim]``."""
        counts = [crop_count(tiling) for tiling in tilings]
        merged = [
            merge_crops(crops, tiling, self.config)
            for crops, tiling in zip(features_NTC.split(counts), tilings, strict=True)
        ]
        out: Tensor = self.proj_mlp(torch.stack(merged))
        return out


def crop_count(tiling: Tiling) -> int:
    """How many crops a picture of this tiling has: the whole, and the tiles when there is more than one."""
    tiles = tiling.rows * tiling.columns
    return 1 if tiles == 1 else 1 + tiles
