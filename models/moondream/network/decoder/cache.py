"""The KV cache that many sequences share, and what all blocks of one pass of the decoder share.

Letters of the shapes: B rows, T new tokens, S cached positions, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..config import TextConfig


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
