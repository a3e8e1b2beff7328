"""The decoder: embeddings to hidden states, with a KV cache that many sequences share.

After moondream/torch/text.py and rope.py @ 44146f1. Letters of the shapes: B rows, T new tokens, S cached positions,
H heads, D channels of a head, C channels, V vocabulary.
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


class KVCache(NamedTuple):
    """Keys and values of every layer, each ``[layers, B, H, S, D]``. The index of a token in S is its position."""

    keys: Tensor
    values: Tensor

    def slice_rows(self, start: int, end: int) -> KVCache:
        """Return a view of rows ``start`` to ``end - 1``; writes go to the same memory."""
        return KVCache(self.keys[:, start:end], self.values[:, start:end])

    def copy_from(self, other: KVCache, rows: Sequence[int], num_positions: int) -> None:
        """Copy the first ``num_positions`` positions of row i of ``other`` to row ``rows[i]`` of this cache."""
        for target, source in zip(self, other, strict=True):
            target[:, rows, :, :num_positions] = source[:, :, :, :num_positions]

    def copy_row(self, source: int, target: int, num_positions: int) -> None:
        """Copy the first ``num_positions`` positions of row ``source`` to row ``target``."""
        for tensor in self:
            tensor[:, target, :, :num_positions] = tensor[:, source, :, :num_positions]

    @classmethod
    def empty(cls, config: TextConfig, num_rows: int, num_positions: int, like: Tensor) -> KVCache:
        """Return a cache of zeros, with the device and the dtype of ``like``."""
        shape = (config.n_layers, num_rows, config.n_kv_heads, num_positions, config.head_dim)
        return cls(like.new_zeros(shape), like.new_zeros(shape))


class TextBlock(nn.Module):
    """A parallel transformer block: attention and MLP read the same norm, and both are added to the input."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.ln = nn.LayerNorm(config.dim)
        self.attn = AttentionWeights(config.dim, (config.n_heads + 2 * config.n_kv_heads) * config.head_dim)
        self.mlp = MLP(config.dim, config.ff_dim, config.dim)

    def forward(self, hidden_BTC: Tensor, step: Step, layer: int) -> Tensor:
        """Map hidden states ``[B, T, C]`` to ``[B, T, C]``, and write keys and values to ``layer`` of the cache."""
        normed_BTC = self.ln(hidden_BTC)
        q, k, v = self.project_qkv(normed_BTC, step)
        if step.cache is not None:
            k, v = step.append(k, v, layer)
        grouped = q.shape[1] != k.shape[1]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=step.mask_B1TS, enable_gqa=grouped)
        out: Tensor = hidden_BTC + self.attn.proj(attended.transpose(1, 2).flatten(2)) + self.mlp(normed_BTC)
        return out

    def project_qkv(self, normed_BTC: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values ``[B, H, T, D]``; queries and keys have their rotary embedding."""
        heads, kv_heads = self.config.n_heads, self.config.n_kv_heads
        qkv_BHTD = self.attn.qkv(normed_BTC).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
        q, k, v = qkv_BHTD.split([heads, kv_heads, kv_heads], dim=1)
        return rotate(q, step.rotary), rotate(k, step.rotary), v


class Step(NamedTuple):
    """What all blocks of one pass share.

    ``rotary``: cosines and sines of the positions. ``mask_B1TS``: True where a token attends; None: everywhere.
    ``rows_B1``: the row numbers 0 to B-1. ``num_visible``: S, the cached positions that the pass reads.
    """

    rotary: tuple[Tensor, Tensor]
    mask_B1TS: Tensor | None
    positions_BT: Tensor
    cache: KVCache | None
    rows_B1: Tensor
    num_visible: int

    def append(self, k_BHTD: Tensor, v_BHTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write keys and values to ``positions_BT`` of the cache; return the first ``num_visible`` of all positions."""
        assert self.cache is not None
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows_B1, :, self.positions_BT] = k_BHTD.transpose(1, 2)
        values[self.rows_B1, :, self.positions_BT] = v_BHTD.transpose(1, 2)
        return keys[:, :, : self.num_visible], values[:, :, : self.num_visible]


class Text(nn.Module):
    """The decoder: token embeddings, the blocks, and the head over the vocabulary."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Parameter(torch.zeros(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.n_layers))
        self.post_ln = nn.LayerNorm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[..., C]`` of token ids ``[...]``."""
        return F.embedding(ids, self.wte)

    def forward(
        self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Return the hidden states of the last block, before the last norm, ``[B, T, C]``.

        With a cache, token t of row b is written to position ``positions_BT[b, t]``, and the tokens attend to the first
        S positions. S is the last dimension of the mask. Without a mask S is T, and every token attends to all.
        """
        step = self._step(embeds_BTC, positions_BT, mask_B1TS, cache)
        hidden_BTC = embeds_BTC
        for layer, block in enumerate(self.blocks):
            hidden_BTC = block(hidden_BTC, step, layer)
        return hidden_BTC

    def prefill(self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None, cache: KVCache) -> None:
        """Write the same keys and values to the cache as ``forward``. Of the last block nothing else is computed."""
        step = self._step(embeds_BTC, positions_BT, mask_B1TS, cache)
        *blocks, last = cast("list[TextBlock]", list(self.blocks))
        hidden_BTC = embeds_BTC
        for layer, block in enumerate(blocks):
            hidden_BTC = block(hidden_BTC, step, layer)
        _, k, v = last.project_qkv(last.ln(hidden_BTC), step)
        step.append(k, v, len(blocks))

    def _step(self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None, cache: KVCache | None) -> Step:
        num_visible = embeds_BTC.shape[1] if mask_B1TS is None else mask_B1TS.shape[-1]
        rotary = rotary_table(positions_BT, self.config.rotary_dim)
        rows_B1 = torch.arange(len(embeds_BTC), device=embeds_BTC.device)[:, None]
        return Step(rotary, mask_B1TS, positions_BT, cache, rows_B1, num_visible)

    def logits(self, hidden_BC: Tensor) -> Tensor:
        """Return the logits over the vocabulary, ``[..., V]``, of hidden states ``[..., C]`` before the last norm."""
        out: Tensor = self.lm_head(self.post_ln(hidden_BC))
        return out


def rotary_table(positions_BT: Tensor, rotary_dim: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of each position, float32 ``[B, 1, T, rotary_dim / 2]``.

    The angle of pair i is position * ROTARY_THETA ** (-2 * i / rotary_dim).
    """
    pairs = torch.arange(0, rotary_dim, 2, device=positions_BT.device, dtype=torch.float32)
    angles = positions_BT[:, None, :, None].float() * ROTARY_THETA ** (-pairs / rotary_dim)
    return angles.cos(), angles.sin()


def rotate(x_BHTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Return ``x`` with the pairs (d, d + rotary_dim / 2) of its channels rotated by the angles of ``rotary``.

    ``rotary`` is (cos, sin), each ``[B, 1, T, rotary_dim / 2]``; see ``rotary_table``. The rotation is computed in
    float32. Channels from ``rotary_dim`` on are not changed.
    """
    cos, sin = rotary
    half = cos.shape[-1]
    first, second = x_BHTD[..., :half].float(), x_BHTD[..., half : 2 * half].float()
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([rotated.to(x_BHTD.dtype), x_BHTD[..., 2 * half :]], dim=-1)
