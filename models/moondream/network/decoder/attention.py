"""The attention of a decoding step, by the ways that PyTorch offers for rows that see different numbers of positions.

Letters of the shapes: B rows, T new tokens (1 in a step), S cached positions, H heads of queries, K heads of keys,
D channels of a head, R half of the rotated channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from .cache import KVCache

# The kernel reads a row of the cache as a page, whose length must be a multiple of this number.
PAGE_MULTIPLE = 256


class Pages(NamedTuple):
    """The rows of a cache as ``varlen_attn`` wants them, all int32 ``[B + 1]``, ``[B + 1]``, ``[B]`` and ``[B, 1]``.

    ``query_ends``, ``key_ends``: 0 and the ends of the rows, among all queries and among all positions. ``lengths``:
    the visible positions of the rows. ``table``: the page of each row, which is the row itself.
    """

    query_ends: Tensor
    key_ends: Tensor
    lengths: Tensor
    table: Tensor


class Visible(NamedTuple):
    """What the tokens of one pass see of the cache.

    ``mask_B1TS``: what is added to the scores of a token: 0 where the token attends and minus infinity elsewhere; None:
    the tokens attend everywhere. ``num_visible``: S, the cached positions that the pass reads. ``positions_BT``: the
    positions of the tokens. ``cache``: None in a pass without one. ``pages``: for ``varlen`` only.
    """

    mask_B1TS: Tensor | None
    num_visible: int
    positions_BT: Tensor
    cache: KVCache | None
    pages: Pages | None = None

    def with_pages(self) -> Visible:
        """Return the same with ``pages``, which all layers share. There is one token a row, and a cache."""
        assert self.cache is not None
        ends = torch.arange(len(self.positions_BT) + 1, dtype=torch.int32, device=self.positions_BT.device)
        lengths = self.positions_BT[:, 0].int() + 1
        return self._replace(pages=Pages(ends, ends * self.cache.num_positions, lengths, ends[:-1, None]))


# From queries [B, H, T, D], keys and values [B, K, S, D], the layer, and what is visible to [B, H, T, D].
Attention = Callable[[Tensor, Tensor, Tensor, int, Visible], Tensor]


class Step(NamedTuple):
    """What all blocks of one pass share.

    ``angles_BT3R``: the rows of the rotary table. ``rows_B1``: the row numbers 0 to B-1. ``attention``: how the tokens
    attend.
    """

    angles_BT3R: Tensor
    visible: Visible
    rows_B1: Tensor
    attention: Attention

    def append(self, kv_BTHD: Tensor, layer: int) -> Tensor:
        """Write the heads of keys and values, ``[B, T, 2 * K, D]``, to the positions of the tokens in the cache.

        Returns:
            The first ``num_visible`` positions of the rows, ``[B, 2 * K, S, D]``.
        """
        assert self.visible.cache is not None
        heads_BHSD = self.visible.cache.heads[layer]
        heads_BHSD[self.rows_B1, :, self.visible.positions_BT] = kv_BTHD
        return heads_BHSD[:, :, : self.visible.num_visible]


def sdpa(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, layer: int, visible: Visible) -> Tensor:
    """Attend by the kernel that PyTorch chooses, with the mask. It works for any number of tokens on any device."""
    return F.scaled_dot_product_attention(
        q_BHTD, k_BKSD, v_BKSD, attn_mask=visible.mask_B1TS, enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1]
    )


def cudnn(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, layer: int, visible: Visible) -> Tensor:
    """Attend by the kernel of cuDNN, with the mask."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q_BHTD, k_BKSD, v_BKSD, layer, visible)


def products(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, layer: int, visible: Visible) -> Tensor:
    """Attend by two matrix products and a softmax in float32. T is 1: queries of one key's head share a product."""
    q_BKGD = q_BHTD.view(len(q_BHTD), k_BKSD.shape[1], -1, q_BHTD.shape[-1])
    scores_BKGS = torch.matmul(q_BKGD, k_BKSD.transpose(2, 3)).float() * q_BHTD.shape[-1] ** -0.5
    if visible.mask_B1TS is not None:
        scores_BKGS += visible.mask_B1TS
    return torch.matmul(scores_BKGS.softmax(-1).to(v_BKSD.dtype), v_BKSD).view_as(q_BHTD)


def varlen(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, layer: int, visible: Visible) -> Tensor:
    """Attend by ``varlen_attn``, which reads each row to its own end. Each row of the cache is one page.

    T is 1. In 16 bits on CUDA only. Nothing here waits for the device, so that a CUDA graph can hold it.
    """
    cache, pages = visible.cache, visible.pages
    assert cache is not None and pages is not None
    keys, values = cache.heads[layer].transpose(1, 2).chunk(2, dim=2)
    out_BHD = varlen_attn(
        q_BHTD[:, :, 0],
        keys,
        values,
        pages.query_ends,
        pages.key_ends,
        1,
        visible.num_visible,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
        seqused_k=pages.lengths,
        block_table=pages.table,
    )
    assert isinstance(out_BHD, Tensor)
    return out_BHD[:, :, None]


# The ways that may take the place of ``sdpa`` in a step. FlexAttention is not among them: it is compiled at its first
# call, and again for other shapes.
WAYS: dict[str, Attention] = {"cudnn": cudnn, "products": products, "varlen": varlen}
