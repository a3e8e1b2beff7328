"""Sampling: from logits to the next token, by repetition penalty, temperature and nucleus (top-p).

After moondream/torch/moondream.py @ 44146f1, section _generate. Letters of the shapes: B rows, V vocabulary,
K candidates or blocks, N tokens of a block.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# The largest float32 below 1.
MAX_UNIFORM = 1 - 2.0**-24
# Tokens of a block in ``invert_cdf``.
BLOCK_SIZE = 256
# Tokens among which a nucleus is searched before the whole vocabulary is sorted.
NUM_CANDIDATES = 1024
MIN_TEMPERATURE = torch.finfo(torch.float32).tiny


def seeded_random(request_id: str) -> random.Random:
    """Return the random generator of a request, seeded by its id alone.

    The same id gives the same numbers in every process and every batch.
    """
    return random.Random(hashlib.sha256(request_id.encode()).digest())


def apply_repetition_penalty(logits_V: Tensor, generated: Sequence[int], penalty: float) -> None:
    """Change the logits of the ``generated`` token ids in place: divide positive ones by ``penalty``, multiply others.

    A token that occurs twice in ``generated`` is penalized once. A penalty of 1 changes nothing.
    """
    if penalty == 1 or not generated:
        return
    ids = torch.tensor(sorted(set(generated)), device=logits_V.device)
    logits = logits_V[ids]
    logits_V[ids] = torch.where(logits > 0, logits / penalty, logits * penalty)


def probabilities(logits_BV: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Return softmax(logits / temperature), float32 ``[B, V]``. Temperatures are above 0, one for each row."""
    temperature_B = torch.tensor(temperatures, device=logits_BV.device, dtype=torch.float32)
    # The maximum is subtracted first, so that a division by a tiny temperature gives no infinity and no NaN.
    shifted_BV = logits_BV.float() - logits_BV.amax(-1, keepdim=True)
    return shifted_BV.div_(temperature_B[:, None].clamp_min(MIN_TEMPERATURE)).softmax(-1)


def nucleus(probs_BV: Tensor, top_p_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and token ids, both ``[B, V]``, sorted by falling probability; equal ones by rising id.

    The nucleus ends with the first token at which the sum of probabilities exceeds ``top_p``. The probabilities of
    tokens outside the nucleus are set to 0; those inside are not rescaled.
    """
    ordered_BV, ids_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = ordered_BV.cumsum(-1) - ordered_BV
    return ordered_BV.masked_fill(before_BV > top_p_B[:, None], 0.0), ids_BV


def sample_from_nucleus(probs_BV: Tensor, top_p_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Return one token id for each row ``[B]``, drawn from the nucleus of the row by a number in [0, 1).

    The nucleus is searched among ``NUM_CANDIDATES`` tokens first, because a sort of the vocabulary takes ten times as
    long. The result is the same as with a full sort.
    """
    # Sorted by id: the order of equal probabilities in topk may depend on the device and on the number of rows.
    candidates_BK = probs_BV.topk(min(NUM_CANDIDATES, probs_BV.shape[-1])).indices.sort(-1).values
    candidate_probs_BK = probs_BV.gather(1, candidates_BK)
    kept_BK, places_BK = nucleus(candidate_probs_BK, top_p_B)
    ids_B = candidates_BK.gather(1, places_BK.gather(1, invert_cdf(kept_BK, uniform_B)[:, None]))[:, 0]
    # If the nucleus includes the least likely candidate, it may reach tokens that are no candidates: sort them all.
    reaches_B = ((kept_BK == candidate_probs_BK.amin(-1, keepdim=True)) & (kept_BK > 0)).any(-1)
    if reaches_B.any():
        kept_BV, order_BV = nucleus(probs_BV[reaches_B], top_p_B[reaches_B])
        ids_B[reaches_B] = order_BV.gather(1, invert_cdf(kept_BV, uniform_B[reaches_B])[:, None])[:, 0]
    return ids_B


def sample(
    logits_BV: Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms: Sequence[float]
) -> Tensor:
    """Return one token id for each row, ``[B]``. Each of the three sequences has one number for each row.

    A row of temperature 0 takes its most likely token. Any other row takes the token that its number of ``uniforms``,
    in [0, 1), picks from its distribution, which ``top_ps`` below 1 cuts to a nucleus.
    """
    if not any(temperatures):
        return logits_BV.argmax(-1)
    device = logits_BV.device
    probs_BV = probabilities(logits_BV, [temperature or 1.0 for temperature in temperatures])
    # A float64 just below 1 becomes 1.0 in float32, and no sum of probabilities exceeds 1.0 of the total.
    uniform_B = torch.tensor(uniforms, device=device, dtype=torch.float32).clamp_max(MAX_UNIFORM)
    ids_B = invert_cdf(probs_BV, uniform_B)
    # Only these rows need a sort.
    if narrow := [row for row, top_p in enumerate(top_ps) if top_p < 1 and temperatures[row]]:
        top_p_B = torch.tensor([top_ps[row] for row in narrow], device=device)
        ids_B[narrow] = sample_from_nucleus(probs_BV[narrow], top_p_B, uniform_B[narrow])
    if all(temperatures):
        return ids_B
    greedy_B = torch.tensor([temperature == 0 for temperature in temperatures], device=device)
    return torch.where(greedy_B, logits_BV.argmax(-1), ids_B)


def invert_cdf(probs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return for each row ``[B]`` the first index at which the cumulative sum exceeds ``uniform`` times the row's sum.

    The rows of ``probs_BV`` need not sum to 1. An index of probability 0 is never returned. The search finds a block
    first and an index in that block second: a cumulative sum over the vocabulary would dominate the time of a step.
    """
    blocks_BKN = F.pad(probs_BV, (0, -probs_BV.shape[-1] % BLOCK_SIZE)).unflatten(-1, (-1, BLOCK_SIZE))
    sums_BK = blocks_BKN.sum(-1).cumsum(-1)
    target_B1 = uniform_B[:, None] * sums_BK[:, -1:]
    block_B1 = (sums_BK > target_B1).int().argmax(-1, keepdim=True)
    before_B1 = F.pad(sums_BK, (1, 0)).gather(1, block_B1)
    block_BN = blocks_BKN.take_along_dim(block_B1[:, :, None], 1)[:, 0]
    exceeds_BN = before_B1 + block_BN.cumsum(-1) > target_B1
    # Rounding may leave the sum of single tokens below the block's own sum: then the last possible token is taken.
    last_B = BLOCK_SIZE - 1 - (block_BN > 0).flip(-1).int().argmax(-1)
    place_B = torch.where(exceeds_BN.any(-1), exceeds_BN.int().argmax(-1), last_B)
    return block_B1[:, 0] * BLOCK_SIZE + place_B
