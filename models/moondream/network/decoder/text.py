"""The decoder: embeddings to hidden states, with a KV cache that many sequences share.

After moondream/torch/text.py @ 44146f1. Letters of the shapes: B rows, T new tokens, S cached positions,
H heads, D channels of a head, C channels, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TextConfig
from ..layers import MLP, AttentionWeights
from .cache import KVCache, Step
from .experts import Experts
from .rotary import rotary_table, rotate
from .tau import Tau


class TextAttention(AttentionWeights):
    """The weights of the decoder's attention. The attribute ``tau`` exists only if the configuration has tau."""

    tau: Tau

    def __init__(self, config: TextConfig) -> None:
        qkv_dim = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim
        super().__init__(config.dim, qkv_dim)
        if config.tau:
            self.tau = Tau(config.n_heads, qkv_dim)


class TextBlock(nn.Module):
    """A parallel transformer block: attention and MLP read the same norm, and both are added to the input."""

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.ln = nn.LayerNorm(config.dim)
        self.attn = TextAttention(config)
        if config.moe is not None and layer >= config.moe.start_layer:
            self.mlp: nn.Module = Experts(config.dim, config.moe)
        else:
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
        qkv_BTC = self.attn.qkv(normed_BTC)
        qkv_BHTD = qkv_BTC.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
        q, k, v = qkv_BHTD.split([heads, kv_heads, kv_heads], dim=1)
        if self.config.tau:
            q_factor, v_factor = self.attn.tau(qkv_BTC, step.positions_BT)
            q, v = q * q_factor, v * v_factor
        return rotate(q, step.rotary), rotate(k, step.rotary), v


class Text(nn.Module):
    """The decoder: token embeddings, the blocks, and the head over the vocabulary."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Parameter(torch.zeros(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(TextBlock(config, layer) for layer in range(config.n_layers))
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
        rotary = rotary_table(positions_BT, self.config.rotary_dim, self.config.rope_theta)
        rows_B1 = torch.arange(len(embeds_BTC), device=embeds_BTC.device)[:, None]
        return Step(rotary, mask_B1TS, positions_BT, cache, rows_B1, num_visible)

    def logits(self, hidden_BC: Tensor) -> Tensor:
        """Return the logits over the vocabulary, ``[..., V]``, of hidden states ``[..., C]`` before the last norm."""
        out: Tensor = self.lm_head(self.post_ln(hidden_BC))
        return out
