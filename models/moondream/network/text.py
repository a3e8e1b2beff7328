"""The decoder: embeddings in, hidden states out, over a cache that many sequences share.

After moondream/torch/text.py and rope.py @ 44146f1. Letters of the shapes: B rows, T new tokens, S cached positions,
H heads, D channels of a head, C channels, V vocabulary. It knows positions and masks, not what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TextConfig
from .layers import MLP, AttentionWeights

# moondream/torch/rope.py @ 44146f1
ROTARY_THETA = 10000.0


class Cache(NamedTuple):
    """Keys and values of every layer, each ``[layers, B, H, S, D]``; where a token lies in S is its position."""

    keys: Tensor
    values: Tensor

    def rows(self, start: int, end: int) -> Cache:
        """The same memory, of some rows only."""
        return Cache(self.keys[:, start:end], self.values[:, start:end])

    def copy(self, rows: Sequence[int], theirs: Cache, positions: int) -> None:
        """Fill the first positions of these rows with those of as many rows of another cache."""
        for mine, other in zip(self, theirs, strict=True):
            mine[:, rows, :, :positions] = other[:, :, :, :positions]

    def move(self, row: int, to: int, positions: int) -> None:
        """Copy the first positions of one row over those of another."""
        for tensor in self:
            tensor[:, to, :, :positions] = tensor[:, row, :, :positions]

    @classmethod
    def empty(cls, config: TextConfig, rows: int, positions: int, like: Tensor) -> Cache:
        """Room for ``positions`` of ``rows`` sequences, on the device and in the type of ``like``."""
        shape = (config.n_layers, rows, config.n_kv_heads, positions, config.head_dim)
        return cls(like.new_zeros(shape), like.new_zeros(shape))


class TextBlock(nn.Module):
    """A block whose attention and MLP read the same norm and are added side by side."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.ln = nn.LayerNorm(config.dim)
        self.attn = AttentionWeights(config.dim, (config.n_heads + 2 * config.n_kv_heads) * config.head_dim)
        self.mlp = MLP(config.dim, config.ff_dim, config.dim)

    def forward(self, hidden_BTC: Tensor, step: Step, layer: int) -> Tensor:
        """``[B, T, C]`` to ``[B, T, C]``; keys and values go to the cache."""
        normed = self.ln(hidden_BTC)
        q, k, v = self.look(normed, step)
        if step.cache is not None:
            k, v = step.remember(k, v, layer)
        grouped = q.shape[1] != k.shape[1]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=step.mask_B1TS, enable_gqa=grouped)
        out: Tensor = hidden_BTC + self.attn.proj(seen.transpose(1, 2).flatten(2)) + self.mlp(normed)
        return out

    def look(self, normed_BTC: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[B, H, T, D]``, rotated."""
        heads, kv_heads = self.config.n_heads, self.config.n_kv_heads
        qkv_BHTD = self.attn.qkv(normed_BTC).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
        q, k, v = qkv_BHTD.split([heads, kv_heads, kv_heads], dim=1)
        return rotate(q, step.rotary), rotate(k, step.rotary), v


class Step(NamedTuple):
    """What all blocks share in one pass: rotations, mask (None: all see all), and the cache to write and read."""

    rotary: tuple[Tensor, Tensor]
    mask_B1TS: Tensor | None
    positions_BT: Tensor
    cache: Cache | None
    rows_B1: Tensor
    seen: int

    def remember(self, k_BHTD: Tensor, v_BHTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write new keys and values at their positions; return all up to position ``seen``."""
        assert self.cache is not None
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows_B1, :, self.positions_BT] = k_BHTD.transpose(1, 2)
        values[self.rows_B1, :, self.positions_BT] = v_BHTD.transpose(1, 2)
        return keys[:, :, : self.seen], values[:, :, : self.seen]


class Text(nn.Module):
    """Token embeddings, the blocks, and the head over the vocabulary."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Parameter(torch.zeros(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.n_layers))
        self.post_ln = nn.LayerNorm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids ``[...]`` to embeddings ``[..., C]``."""
        return F.embedding(ids, self.wte)

    def forward(
        self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states of the last block, before the last norm, ``[B, T, C]``.

        With a cache, row b's token t is stored at ``positions_BT[b, t]`` and S is the width of the mask (without a
        mask: T, the whole of a prefix); without one, S is T.
        """
        step = self._step(embeds_BTC, positions_BT, mask_B1TS, cache)
        hidden_BTC = embeds_BTC
        for layer, block in enumerate(self.blocks):
            hidden_BTC = block(hidden_BTC, step, layer)
        return hidden_BTC

    def memorize(self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None, cache: Cache) -> None:
        """As ``forward``, for the cache alone: the last block gives its keys and values, and is not run to its end."""
        step = self._step(embeds_BTC, positions_BT, mask_B1TS, cache)
        *blocks, last = cast("list[TextBlock]", list(self.blocks))
        hidden_BTC = embeds_BTC
        for layer, block in enumerate(blocks):
            hidden_BTC = block(hidden_BTC, step, layer)
        _, k, v = last.look(last.ln(hidden_BTC), step)
        step.remember(k, v, len(blocks))

    def _step(self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None, cache: Cache | None) -> Step:
        seen = embeds_BTC.shape[1] if mask_B1TS is None else mask_B1TS.shape[-1]
        rotary = rotary_table(positions_BT, self.config.rotary_dim)
        rows_B1 = torch.arange(len(embeds_BTC), device=embeds_BTC.device)[:, None]
        return Step(rotary, mask_B1TS, positions_BT, cache, rows_B1, seen)

    def logits(self, hidden_BC: Tensor) -> Tensor:
        """Hidden states to logits over the vocabulary, ``[..., V]``."""
        out: Tensor = self.lm_head(self.post_ln(hidden_BC))
        return out


def rotary_table(positions_BT: Tensor, rotary_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each position, float32 ``[B, 1, T, rotary_dim / 2]``."""
    pairs = torch.arange(0, rotary_dim, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None].float() * ROTARY_THETA ** (-pairs / rotary_dim)
    return angles.cos(), angles.sin()


def rotate(x_BHTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first channels of each head in pairs (d, d + rotary_dim / 2), in float32; the rest passes."""
    cos, sin = rotary
    half = cos.shape[-1]
    first, second = x_BHTD[..., :half].float(), x_BHTD[..., half : 2 * half].float()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([turned.to(x_BHTD.dtype), x_BHTD[..., 2 * half :]], dim=-1)
