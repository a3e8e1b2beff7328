"""From logits to the next token: penalty, temperature, nucleus, draw.

After moondream/torch/moondream.py @ 44146f1, section _generate. Letters of the shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor


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


def probabilities(logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor) -> Tensor:
    """The distribution that tokens are drawn from, float32 ``[B, V]``; temperatures above 0.

    Kept are the likeliest tokens, up to and with the first that brings their sum above ``top_p``.
    """
    probs_BV = (logits_BV.float() / temperature_B[:, None]).softmax(-1)
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
    temperature_B, top_p_B, draw_B = (
        torch.tensor(values, device=logits_BV.device, dtype=torch.float32) for values in (temperatures, top_ps, draws)
    )
    greedy_B = temperature_B == 0
    probs_BV = probabilities(logits_BV, temperature_B.masked_fill(greedy_B, 1.0), top_p_B)
    reached_BV = probs_BV.cumsum(-1)
    drawn_B = (reached_BV > draw_B[:, None] * reached_BV[:, -1:]).int().argmax(-1)
    return torch.where(greedy_B, likeliest_B, drawn_B)
