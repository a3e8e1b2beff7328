"""The KV cache that many sequences share.

Letters of the shapes: B rows, S cached positions, H heads of keys, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..config import TextConfig


class KVCache(NamedTuple):
    """Keys and values of every layer in one tensor, ``[layers, B, 2 * H, S, D]``: the keys' heads, then the values'.

    The index of a token in S is its position. One tensor, so that a layer writes both in one operation.
    """

    heads: Tensor

    @property
    def keys(self) -> Tensor:
        """A view of the keys, ``[layers, B, H, S, D]``."""
        return self.heads.chunk(2, dim=2)[0]

    @property
    def values(self) -> Tensor:
        """A view of the values, ``[layers, B, H, S, D]``."""
        return self.heads.chunk(2, dim=2)[1]

    @property
    def num_positions(self) -> int:
        """S, the positions of each row."""
        return self.heads.shape[3]

    def slice_rows(self, start: int, end: int) -> KVCache:
        """Return a view of rows ``start`` to ``end - 1``; writes go to the same memory."""
        return KVCache(self.heads[:, start:end])

    def copy_from(self, other: KVCache, rows: Sequence[int], num_positions: int) -> None:
        """Copy the first ``num_positions`` positions of row i of ``other`` to row ``rows[i]`` of this cache."""
        self.heads[:, rows, :, :num_positions] = other.heads[:, :, :, :num_positions]

    def copy_row(self, source: int, target: int, num_positions: int) -> None:
        """Copy the first ``num_positions`` positions of row ``source`` to row ``target``."""
        self.heads[:, target, :, :num_positions] = self.heads[:, source, :, :num_positions]

    @classmethod
    def empty(cls, config: TextConfig, num_rows: int, num_positions: int, like: Tensor) -> KVCache:
        """Return a cache of zeros, with the device and the dtype of ``like``."""
        shape = (config.n_layers, num_rows, 2 * config.n_kv_heads, num_positions, config.head_dim)
        return cls(like.new_zeros(shape))
