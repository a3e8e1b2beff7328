"""From logits to the next token: penalty, temperature, nucleus, draw.

After moondream/torch/moondream.py @ 44146f1, section _generate. Letters of the shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor

# The float32 before 1.
LAST_DRAW = 1 - 2.0**-24
TINY = torch.finfo(torch.float32).tiny


def generator(request_id: str) -> random.Random:
    """The source of a request's draws: the same id draws the same numbers, whatever shares its batch."""
    return random.Random(hashlib.sha256(request_id.encode()).digest())


def penalize(logits_V: Tensor, generated: Sequence[int], penalty: float) -> None:
    """Make tokens already generated less likely, in place: positive logits are divided, negative multiplied."""
    if penalty == 1 or not generated:
        return
    ids = torch.tensor(sorted(set(generated)), device=logits_V.device)
    logits = logits_V[ids]
    logits_V[ids] = torch.where(logits > 0, logits / penalty, logits * penalty)


def probabilities(logits_BV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float]) -> Tensor:
    """The distribution that tokens are drawn from, float32 ``[B, V]``; temperatures above 0."""
    temperature_B = torch.tensor(temperatures, device=logits_BV.device, dtype=torch.float32)
    # Logits below the likeliest: a tiny temperature makes nothing infinite but what is impossible then.
    below_BV = logits_BV.float() - logits_BV.max(-1, keepdim=True).values
    probs_BV = (below_BV / temperature_B[:, None].clamp_min(TINY)).softmax(-1)
    # The sort costs as much as a layer: only the rows that need it pay.
    if narrow := [index for index, top_p in enumerate(top_ps) if top_p < 1]:
        top_p_B = torch.tensor([top_ps[index] for index in narrow], device=logits_BV.device, dtype=torch.float32)
        probs_BV[narrow] = _nucleus(probs_BV[narrow], top_p_B)
    return probs_BV


def _nucleus(probs_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Keep the likeliest tokens, up to and with the first that brings their sum above ``top_p``."""
    ordered, order = probs_BV.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before > top_p_B[:, None], 0.0)
    kept = torch.zeros_like(probs_BV).scatter(1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def draw(logits_BV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], draws: Sequence[float]) -> Tensor:
    """Token ids ``[B]``: the likeliest where the temperature is 0, else by a draw in [0, 1) for each row."""
    likeliest_B = logits_BV.argmax(-1)
    if not any(temperatures):
        return likeliest_B
    probs_BV = probabilities(logits_BV, [temperature or 1.0 for temperature in temperatures], top_ps)
    greedy_B = torch.tensor([temperature == 0 for temperature in temperatures], device=logits_BV.device)
    # In float32 the last draws below 1 would be 1, which no sum exceeds.
    draw_B = torch.tensor(draws, device=logits_BV.device, dtype=torch.float32).clamp_max(LAST_DRAW)
    reached_BV = probs_BV.cumsum(-1)
    drawn_B = (reached_BV > draw_B[:, None] * reached_BV[:, -1:]).int().argmax(-1)
    return torch.where(greedy_B, likeliest_B, drawn_B)
