"""The rotary embedding of queries and keys. After moondream/torch/rope.py @ 44146f1.

Letters of the shapes: B rows, T new tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions_BT: Tensor, rotary_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines of each position, float32 ``[B, 1, T, rotary_dim / 2]``.

    The angle of pair i is position / theta ** (2 * i / rotary_dim).
    """
    pairs = torch.arange(0, rotary_dim, 2, device=positions_BT.device, dtype=torch.float32)
    # Rounded in float32 as in the reference: an exact angle differs by 2e-5, and logits of Moondream 3 by 4e-4.
    frequencies = 1.0 / theta ** (pairs / rotary_dim)
    angles = positions_BT[:, None, :, None].float() * frequencies
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
