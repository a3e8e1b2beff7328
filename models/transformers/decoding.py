"""Decoding of a batch by ``generate`` of transformers, where each row has its own sampling, seed and token limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from ..moondream.engine.decoding.sampling import Draws, penalize_repetition, sample, seeded_random
from ..tasks import FinishReason, Sampling


class Row(NamedTuple):
    """How a row of a batch is decoded. ``seed``: the id of its request. ``max_tokens``: its limit on new tokens."""

    seed: str
    sampling: Sampling
    max_tokens: int


class RowSampler(LogitsProcessor):
    """Leave only the next token of each row, so that a greedy search takes that token.

    ``do_sample`` of transformers has one temperature and one generator for all rows. An answer would then depend on
    the other rows of its batch.
    """

    def __init__(self, rows: Sequence[Row], prompt_length: int, device: torch.device) -> None:
        self._rows, self._prompt_length = rows, prompt_length
        self._randoms = [seeded_random(row.seed) for row in rows]
        penalties = [row.sampling.repetition_penalty for row in rows]
        self._penalty_B = torch.tensor(penalties, device=device) if set(penalties) != {1.0} else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores ``[B, V]`` that are 0 for one token of each row, and minus infinity for all others."""
        scores = scores.float()
        generated_BL = input_ids[:, self._prompt_length :]
        if self._penalty_B is not None and generated_BL.shape[1]:
            scores = penalize_repetition(scores, generated_BL, self._penalty_B)
        draws = Draws.of(
            [row.sampling.temperature for row in self._rows],
            [row.sampling.top_p for row in self._rows],
            [each.random() for each in self._randoms],
            scores.device,
        )
        ids_B, _ = sample(scores, draws, scores.shape[-1])
        return torch.full_like(scores, -torch.inf).scatter(1, ids_B[:, None], 0.0)


class RowLimits(StoppingCriteria):
    """Stop each row at its own limit on new tokens."""

    def __init__(self, rows: Sequence[Row], prompt_length: int, device: torch.device) -> None:
        self._prompt_length = prompt_length
        self._max_tokens_B = torch.tensor([row.max_tokens for row in rows], device=device)

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Return for each row ``[B]`` whether its limit is reached."""
        return self._max_tokens_B <= input_ids.shape[1] - self._prompt_length


def cut_answer(ids: Sequence[int], end_ids: frozenset[int], max_tokens: int) -> tuple[list[int], FinishReason]:
    """Return the tokens of an answer before its end token, and why the answer ended.

    ``ids``: the new tokens of a row, with padding after its end.
    """
    for place, token in enumerate(ids[:max_tokens]):
        if token in end_ids:
            return list(ids[:place]), "stop"
    return list(ids[:max_tokens]), "length"
