"""From logits to the next token: penalty, temperature, nucleus, draw.

After moondream/torch/moondream.py @ 44146f1, section _generate. Letters of the shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# The float32 before 1.
LAST_DRAW = 1 - 2.0**-24
# Tokens whose probabilities are summed up before they are looked at one by one.
BLOCK = 256
# Tokens among which a nucleus is looked for first.
LIKELIEST = 1024
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


def probabilities(logits_BV: Tensor, temperatures: Sequence[float]) -> Tensor:
    """The distribution that tokens are drawn from, float32 ``[B, V]``; temperatures above 0."""
    temperature_B = torch.tensor(temperatures, device=logits_BV.device, dtype=torch.float32)
    # Logits below the likeliest: a tiny temperature makes nothing infinite but what is impossible then.
    below_BV = logits_BV.float() - logits_BV.amax(-1, keepdim=True)
    return below_BV.div_(temperature_B[:, None].clamp_min(TINY)).softmax(-1)


def nucleus(probs_BV: Tensor, top_p_B: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, up to and with the first that brings their sum above ``top_p``: their probabilities, which
    are 0 for others, and their ids, both ``[B, V]``: the likeliest first, of equally likely ones the lowest id."""
    ordered, ids = probs_BV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return ordered.masked_fill(before > top_p_B[:, None], 0.0), ids


def draw_from_nucleus(probs_BV: Tensor, top_p_B: Tensor, draw_B: Tensor) -> Tensor:
    """The token ``[B]`` of each row's nucleus that its draw picks.

    As a rule a nucleus lies among a few likeliest tokens, and to sort all costs ten times as much.
    """
    # By their ids: a device may find equally likely ones in another order for another number of rows.
    likeliest = probs_BV.topk(min(LIKELIEST, probs_BV.shape[-1])).indices.sort(-1).values
    probs = probs_BV.gather(1, likeliest)
    kept, places = nucleus(probs, top_p_B)
    drawn_B = likeliest.gather(1, places.gather(1, pick(kept, draw_B)[:, None]))[:, 0]
    # Another token that is as likely as the last of these may not be among them.
    reaches_B = ((kept == probs.amin(-1, keepdim=True)) & (kept > 0)).any(-1)
    if reaches_B.any():
        kept, ids = nucleus(probs_BV[reaches_B], top_p_B[reaches_B])
        drawn_B[reaches_B] = ids.gather(1, pick(kept, draw_B[reaches_B])[:, None])[:, 0]
    return drawn_B


def draw(logits_BV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], draws: Sequence[float]) -> Tensor:
    """Token ids ``[B]``: the likeliest where the temperature is 0, else by a draw in [0, 1) for each row."""
    if not any(temperatures):
        return logits_BV.argmax(-1)
    device = logits_BV.device
    probs_BV = probabilities(logits_BV, [temperature or 1.0 for temperature in temperatures])
    # In float32 the last draws below 1 would be 1, which no sum exceeds.
    draw_B = torch.tensor(draws, device=device, dtype=torch.float32).clamp_max(LAST_DRAW)
    drawn_B = pick(probs_BV, draw_B)
    # Only the rows that need it pay for it.
    if narrow := [row for row, top_p in enumerate(top_ps) if top_p < 1 and temperatures[row]]:
        top_p_B = torch.tensor([top_ps[row] for row in narrow], device=device)
        drawn_B[narrow] = draw_from_nucleus(probs_BV[narrow], top_p_B, draw_B[narrow])
    if all(temperatures):
        return drawn_B
    greedy_B = torch.tensor([temperature == 0 for temperature in temperatures], device=device)
    return torch.where(greedy_B, logits_BV.argmax(-1), drawn_B)


def pick(probs_BV: Tensor, draw_B: Tensor) -> Tensor:
    """The first token ``[B]`` at which the sum of probabilities exceeds the draw's part of their total.

    First its block is found, then its place there: sums over the whole vocabulary would be the dearest part of a step.
    """
    blocks_BKN = F.pad(probs_BV, (0, -probs_BV.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    reached_BK = blocks_BKN.sum(-1).cumsum(-1)
    goal_B1 = draw_B[:, None] * reached_BK[:, -1:]
    block_B1 = (reached_BK > goal_B1).int().argmax(-1, keepdim=True)
    before_B1 = F.pad(reached_BK, (1, 0)).gather(1, block_B1)
    block_BN = blocks_BKN.take_along_dim(block_B1[:, :, None], 1)[:, 0]
    exceeds_BN = before_B1 + block_BN.cumsum(-1) > goal_B1
    # Added up one by one they may fall short of the block's own sum, by rounding: then it is the last that is possible.
    last_B = BLOCK - 1 - (block_BN > 0).flip(-1).int().argmax(-1)
    place_B = torch.where(exceeds_BN.any(-1), exceeds_BN.int().argmax(-1), last_B)
    return block_B1[:, 0] * BLOCK + place_B
