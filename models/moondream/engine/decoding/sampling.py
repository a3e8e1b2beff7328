"""Sampling: from logits to the next token, by repetition penalty, temperature and nucleus (top-p).

Nothing here waits for the device, so that a step reads its outputs once. After moondream/torch/moondream.py @ 44146f1,
section _generate. Letters of the shapes: B rows, V vocabulary, K candidates or blocks, N tokens of a block, L generated
tokens.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...devices import from_host

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


class Draws(NamedTuple):
    """How the tokens of B rows are drawn. ``temperature_B``, ``top_p_B`` and ``uniform_B`` are float32.

    ``is_greedy_B``: whether the row takes its most likely token. ``narrow_K``: the numbers of the rows of which a
    nucleus is searched.
    """

    is_greedy_B: Tensor
    temperature_B: Tensor
    top_p_B: Tensor
    uniform_B: Tensor
    narrow_K: Tensor | None

    @classmethod
    def of(
        cls,
        temperatures: Sequence[float],
        top_ps: Sequence[float],
        uniforms: Sequence[float],
        device: torch.device,
    ) -> Draws | None:
        """Return the draws of rows on a device. Each sequence has one number for each row.

        ``uniforms`` are in [0, 1).

        Returns:
            None if every row takes its most likely token: all temperatures are 0.
        """
        if not any(temperatures):
            return None
        narrow = [row for row, top_p in enumerate(top_ps) if top_p < 1 and temperatures[row]]
        # A temperature above 0 may become 0 in float32, and a number just below 1 may become 1.0, which no sum of
        # probabilities exceeds.
        is_greedy, divisors = [not temperature for temperature in temperatures], [t or 1.0 for t in temperatures]
        clamped = [min(uniform, MAX_UNIFORM) for uniform in uniforms]
        greedy_B, *numbers = from_host([is_greedy, divisors, top_ps, clamped], torch.float32, device)
        return cls(greedy_B.bool(), *numbers, from_host(narrow, torch.int64, device) if narrow else None)


def sample(logits_BV: Tensor, draws: Draws | None, num_candidates: int) -> tuple[Tensor, Tensor]:
    """Return one token id for each row ``[B]``, and whether the row must be drawn again among more tokens ``[B]``.

    A row of temperature 0 takes its most likely token. Any other row takes the token that its uniform number picks
    from its distribution, which a top-p below 1 cuts to a nucleus. The nucleus is searched among the
    ``num_candidates`` most likely tokens; if it may reach other tokens, the id means nothing.
    """
    greedy_B = logits_BV.argmax(-1)
    reaches_B = torch.zeros_like(greedy_B, dtype=torch.bool)
    if draws is None:
        return greedy_B, reaches_B
    probs_BV = probabilities(logits_BV, draws.temperature_B)
    ids_B = invert_cdf(probs_BV, draws.uniform_B)
    # Only these rows need a sort.
    if draws.narrow_K is not None:
        ids_B[draws.narrow_K], reaches_B[draws.narrow_K] = sample_from_nucleus(
            probs_BV[draws.narrow_K], draws.top_p_B[draws.narrow_K], draws.uniform_B[draws.narrow_K], num_candidates
        )
    return torch.where(draws.is_greedy_B, greedy_B, ids_B), reaches_B


def penalize_repetition(logits_BV: Tensor, generated_BL: Tensor, penalty_B: Tensor) -> Tensor:
    """Return the logits with those of the ``generated`` token ids changed: positive ones are divided by the penalty.

    Others are multiplied by it. A token that occurs twice is penalized once: a shorter row repeats one of its ids.
    """
    logits_BL, penalty_B1 = logits_BV.gather(1, generated_BL), penalty_B[:, None]
    penalized_BL = torch.where(logits_BL > 0, logits_BL / penalty_B1, logits_BL * penalty_B1)
    return logits_BV.scatter(1, generated_BL, penalized_BL)


def probabilities(logits_BV: Tensor, temperature_B: Tensor) -> Tensor:
    """Return softmax(logits / temperature), float32 ``[B, V]``. Temperatures are above 0."""
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


def sample_from_nucleus(
    probs_BV: Tensor, top_p_B: Tensor, uniform_B: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """Return one token id for each row ``[B]``, drawn from the nucleus of the row by a number in [0, 1).

    The nucleus is searched among the ``num_candidates`` most likely tokens, because a sort of the vocabulary takes ten
    times as long. The second result ``[B]`` is True where the nucleus may reach other tokens: the id of that row means
    nothing. With the whole vocabulary as candidates it is False.
    """
    vocabulary = probs_BV.shape[-1]
    # Sorted by id: the order of equal probabilities in topk may depend on the device and on the number of rows.
    candidates_BK = probs_BV.topk(min(num_candidates, vocabulary)).indices.sort(-1).values
    candidate_probs_BK = probs_BV.gather(1, candidates_BK)
    kept_BK, places_BK = nucleus(candidate_probs_BK, top_p_B)
    ids_B = candidates_BK.gather(1, places_BK.gather(1, invert_cdf(kept_BK, uniform_B)[:, None]))[:, 0]
    if num_candidates >= vocabulary:
        return ids_B, torch.zeros_like(ids_B, dtype=torch.bool)
    # A nucleus that includes the least likely candidate may go on.
    reaches_B = ((kept_BK == candidate_probs_BK.amin(-1, keepdim=True)) & (kept_BK > 0)).any(-1)
    return ids_B, reaches_B


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
