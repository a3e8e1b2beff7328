"""The rotary embedding of queries and keys. After moondream/torch/rope.py @ 44146f1.

Letters of the shapes: B rows, T new tokens, S positions, H heads, D channels of a head, R half of the rotated channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(num_positions: int, rotary_dim: int, theta: float, device: torch.device) -> Tensor:
    """Return cosine, negative sine and sine of the positions 0 to ``num_positions`` - 1, float32 ``[S, 3, R]``.

    The angle of pair i is position / theta ** (2 * i / rotary_dim). R is ``rotary_dim / 2``.
    """
    pairs = torch.arange(0, rotary_dim, 2, device=device, dtype=torch.float32)
    # Rounded in float32 as in the reference: an exact angle differs by 2e-5, and logits of Moondream 3 by 4e-4.
    frequencies = 1.0 / theta ** (pairs / rotary_dim)
    angles_SR = torch.arange(num_positions, device=device, dtype=torch.float32)[:, None] * frequencies
    return torch.stack([angles_SR.cos(), -angles_SR.sin(), angles_SR.sin()], dim=1)


def rotate_in_place(x_BTHD: Tensor, angles_BT3R: Tensor) -> None:
    """Rotate the pairs (d, d + R) of the channels of ``x`` by the angles of each token, in four operations.

    ``angles_BT3R``: rows of ``rotary_table``. The rotation is computed in float32. Other channels do not change.
    """
    halves_BTH2R = x_BTHD[..., : 2 * angles_BT3R.shape[-1]].unflatten(-1, (2, -1))
    cos, sin = angles_BT3R[:, :, None, :1], angles_BT3R[:, :, None, 1:]
    halves_BTH2R.copy_(torch.addcmul(halves_BTH2R * cos, halves_BTH2R.flip(-2), sin))
