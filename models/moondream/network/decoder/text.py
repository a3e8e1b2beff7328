"""The decoder: embeddings to hidden states, with a KV cache that many sequences share.

After moondream/torch/text.py @ 44146f1. Letters of the shapes: B rows, T new tokens, S cached positions,
H heads, D channels of a head, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import TextConfig
from ..layers import MLP, AttentionWeights
from .attention import Attention, Step, Visible, sdpa, varlen
from .cache import KVCache
from .experts import Experts
from .fused import FusedWeights
from .rotary import rotary_table, rotate_in_place
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
    """A parallel transformer block: attention and MLP read the same norm, and both are added to the input.

    The attribute ``fused`` is None until ``fuse`` is called, and always with a mixture of experts.
    """

    def __init__(self, config: TextConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.fused: FusedWeights | None = None
        self.ln = nn.LayerNorm(config.dim)
        self.attn = TextAttention(config)
        if config.moe is not None and layer >= config.moe.start_layer:
            self.mlp: nn.Module = Experts(config.dim, config.moe)
        else:
            self.mlp = MLP(config.dim, config.ff_dim, config.dim)

    def fuse(self) -> None:
        """Store the weights of attention and MLP side by side, so that two products take the place of four.

        The parameters become views of the fused tensors: no memory is needed twice, and their names stay. A mixture of
        experts stays as it is.
        """
        if isinstance(self.mlp, MLP):
            self.fused = FusedWeights.of(self.attn, self.mlp)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextBlock:
        # A new device or dtype makes new parameters, which would no longer be views.
        super()._apply(fn, recurse)
        if self.fused is not None:
            self.fuse()
        return self

    def forward(self, hidden_BTC: Tensor, step: Step, layer: int) -> Tensor:
        """Map hidden states ``[B, T, C]`` to ``[B, T, C]``, and write keys and values to ``layer`` of the cache."""
        normed_BTC = self.ln(hidden_BTC)
        if self.fused is None:
            attended_BTC = self.attend(self.attn.qkv(normed_BTC), step, layer)
            separate: Tensor = hidden_BTC + self.attn.proj(attended_BTC) + self.mlp(normed_BTC)
            return separate
        qkv_BTC, inner_BTI = self.fused.project(normed_BTC)
        return hidden_BTC + self.fused.combine(self.attend(qkv_BTC, step, layer), inner_BTI)

    def attend(self, qkv_BTC: Tensor, step: Step, layer: int) -> Tensor:
        """Return what each token attends to, ``[B, T, C]``, before its projection. ``qkv_BTC`` is overwritten."""
        n_heads, n_kv_heads = self.config.n_heads, self.config.n_kv_heads
        q_BTHD, kv_BTHD = self.rotate_qkv(qkv_BTC, step).split([n_heads, 2 * n_kv_heads], dim=2)
        kv_BHSD = kv_BTHD.transpose(1, 2) if step.visible.cache is None else step.append(kv_BTHD, layer)
        k_BHSD, v_BHSD = kv_BHSD.chunk(2, dim=1)
        attended_BHTD = step.attention(q_BTHD.transpose(1, 2), k_BHSD, v_BHSD, layer, step.visible)
        return attended_BHTD.transpose(1, 2).flatten(2)

    def rotate_qkv(self, qkv_BTC: Tensor, step: Step) -> Tensor:
        """Return queries, keys and values in this order, ``[B, T, all heads, D]``, a view of ``qkv_BTC``.

        Queries and keys are rotated in place. With tau, queries and values are scaled in place first.
        """
        n_heads, n_kv_heads = self.config.n_heads, self.config.n_kv_heads
        qkv_BTHD = qkv_BTC.unflatten(-1, (-1, self.config.head_dim))
        if self.config.tau:
            q_factor, v_factor = self.attn.tau(qkv_BTC, step.visible.positions_BT)
            qkv_BTHD[:, :, :n_heads].mul_(q_factor)
            qkv_BTHD[:, :, n_heads + n_kv_heads :].mul_(v_factor)
        rotate_in_place(qkv_BTHD[:, :, : n_heads + n_kv_heads], step.angles_BT3R)
        return qkv_BTHD


class Text(nn.Module):
    """The decoder: token embeddings, the blocks, and the head over the vocabulary.

    ``step_attention``: the attention of passes with one token a row, a cache and a mask. All others take ``sdpa``.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Parameter(torch.zeros(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(TextBlock(config, layer) for layer in range(config.n_layers))
        self.post_ln = nn.LayerNorm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)
        self.step_attention: Attention = sdpa
        self._rotary_tables: dict[torch.device, Tensor] = {}

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
        qkv_BTHD = last.rotate_qkv(last.attn.qkv(last.ln(hidden_BTC)), step)
        step.append(qkv_BTHD[:, :, self.config.n_heads :], len(blocks))

    def fuse(self) -> None:
        """Fuse the weights of each block; see ``TextBlock.fuse``."""
        for block in cast("list[TextBlock]", list(self.blocks)):
            block.fuse()

    def _step(self, embeds_BTC: Tensor, positions_BT: Tensor, mask_B1TS: Tensor | None, cache: KVCache | None) -> Step:
        num_visible = embeds_BTC.shape[1] if mask_B1TS is None else mask_B1TS.shape[-1]
        # Added to the scores: of a mask of booleans, every layer would make this tensor anew.
        if mask_B1TS is not None:
            mask_B1TS = torch.zeros_like(mask_B1TS, dtype=embeds_BTC.dtype).masked_fill(~mask_B1TS, -torch.inf)
        rows_B1 = torch.arange(len(embeds_BTC), device=embeds_BTC.device)[:, None]
        angles_BT3R = self._rotary_table(positions_BT.device)[positions_BT]
        is_step = embeds_BTC.shape[1] == 1 and cache is not None and mask_B1TS is not None
        visible = Visible(mask_B1TS, num_visible, positions_BT, cache)
        if is_step and self.step_attention is varlen:
            visible = visible.with_pages()
        return Step(angles_BT3R, visible, rows_B1, self.step_attention if is_step else sdpa)

    def _rotary_table(self, device: torch.device) -> Tensor:
        """Return the rotary table of all positions of the context, which is made once for each device."""
        if device not in self._rotary_tables:
            config = self.config
            # In inference mode the table would be a tensor that no other mode may use.
            with torch.inference_mode(False):
                table = rotary_table(config.max_context, config.rotary_dim, config.rope_theta, device)
            self._rotary_tables[device] = table
        return self._rotary_tables[device]

    def logits(self, hidden_BC: Tensor) -> Tensor:
        """Return the logits over the vocabulary, ``[..., V]``, of hidden states ``[..., C]`` before the last norm."""
        out: Tensor = self.lm_head(self.post_ln(hidden_BC))
        return out
