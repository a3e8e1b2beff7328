"""The device's part of a step: hidden states to tokens, coordinates and sizes, and to the next input of each row.

Nothing here waits for the device. The host makes a plan before and reads the numbers after. Letters of the shapes:
B rows, C channels, V vocabulary, N some of the rows, L generated tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...checkpoints.weights import MoondreamModel
from ...devices import from_host
from ...network.config import MoondreamConfig
from ...network.region import bin_to_coordinate
from .row import Row
from .sampling import Draws, penalize_repetition, sample


class Numbers(NamedTuple):
    """What is decoded of one row, in the order of ``decode``. All are float32: a token id is exact below 2 ** 24.

    ``token``: an id. ``reaches``: 1 if the row must be drawn again among more tokens. ``first``: a coordinate or a
    width. ``second``: a height. Numbers that the row has no use for are 0.
    """

    token: float
    reaches: float
    first: float
    second: float


class Plan(NamedTuple):
    """What a step decodes of each row, on the device. An index is a number of a row; None: there is no such row.

    ``choosing``: rows that get a token; a slice if all do. ``coordinates``, ``sizes``: rows of which a coordinate or a
    size is decoded. ``takes_coordinate_N``: of the rows of ``coordinates``, those whose next input is the coordinate
    whatever the token is; None: all.

    The other fields count within the rows that choose. ``masked_2N``: pairs of a row and an id that can't be next.
    ``penalized``: rows, their generated ids ``[N, L]`` and their penalties. ``deciding_N``: rows that choose between
    another object and the end only. ``forced_2N``: pairs of a row and the only id that can be next.
    """

    choosing: Tensor | slice | None
    coordinates: Tensor | None
    sizes: Tensor | None
    takes_coordinate_N: Tensor | None
    masked_2N: Tensor | None
    penalized: tuple[Tensor, Tensor, Tensor] | None
    deciding_N: Tensor | None
    forced_2N: Tensor | None
    draws: Draws | None

    @classmethod
    def of(cls, rows: Sequence[Row], config: MoondreamConfig, device: torch.device) -> Plan:
        """Return the plan of the next step. A random number is taken from each row that draws its token."""

        def indices(numbers: Sequence[object]) -> Tensor | None:
            return from_host(numbers, torch.int64, device) if numbers else None

        def pairs(numbers: Sequence[tuple[int, int]]) -> Tensor | None:
            return indices(list(zip(*numbers, strict=True)))

        kinds = [row.next_output for row in rows]
        chosen = [index for index, kind in enumerate(kinds) if kind in ("thought", "token", "object")]
        choosing = [rows[index] for index in chosen]
        located = [index for index, kind in enumerate(kinds) if kind in ("object", "y") or _may_point(kind, config)]
        always = [kinds[index] != "thought" for index in located]
        temperatures = [0.0 if row.next_output == "object" else row.sampling.temperature for row in choosing]
        uniforms = [row.random.random() if warm else 0.0 for row, warm in zip(choosing, temperatures, strict=True)]
        return cls(
            slice(None) if chosen and len(chosen) == len(rows) else indices(chosen),
            indices(located),
            indices([index for index, kind in enumerate(kinds) if kind == "size"]),
            None if all(always) else from_host(always, torch.bool, device),
            pairs([(number, id) for number, row in enumerate(choosing) for id in _impossible_ids(row, config)]),
            _penalties(choosing, device),
            indices([number for number, row in enumerate(choosing) if _decides(row, config)]),
            pairs([(n, config.tokenizer.answer_id or 0) for n, row in enumerate(choosing) if _must_answer(row)]),
            Draws.of(temperatures, [row.sampling.top_p for row in choosing], uniforms, device),
        )


def decode(model: MoondreamModel, hidden_BC: Tensor, plan: Plan, num_candidates: int) -> tuple[Tensor, Tensor]:
    """Return the ``Numbers`` of each row, float32 ``[B, 4]``, and the embeddings of the next inputs, ``[B, C]``.

    ``num_candidates``: see ``sample``. The embeddings mean nothing for rows that end.
    """
    numbers_B4 = hidden_BC.new_zeros(len(hidden_BC), 4, dtype=torch.float32)
    embeds_BC = torch.zeros_like(hidden_BC)
    if plan.choosing is not None:
        ids_N, reaches_N = _choose(model, hidden_BC[plan.choosing], plan, num_candidates)
        numbers_B4[plan.choosing, :2] = torch.stack([ids_N, reaches_N], dim=1).float()
        embeds_BC[plan.choosing] = model.text.embed(ids_N)
    if plan.coordinates is not None:
        logits = model.region.decode_coordinate(hidden_BC[plan.coordinates])
        values_N = bin_to_coordinate(logits.argmax(-1), logits.shape[-1])
        numbers_B4[plan.coordinates, 2] = values_N
        inputs_NC = model.region.encode_coordinate(values_N[:, None]).to(hidden_BC.dtype)
        if plan.takes_coordinate_N is not None:
            # A reasoning points at the picture: its next input is the coordinate, not the token that announces it.
            points_N = numbers_B4[plan.coordinates, 0] == model.config.tokenizer.coord_id
            takes_N = plan.takes_coordinate_N | points_N
            inputs_NC = torch.where(takes_N[:, None], inputs_NC, embeds_BC[plan.coordinates])
        embeds_BC[plan.coordinates] = inputs_NC
    if plan.sizes is not None:
        logits = model.region.decode_size(hidden_BC[plan.sizes])
        sizes_N2 = model.region.bins_to_sizes(logits.argmax(-1), logits.shape[-1])
        numbers_B4[plan.sizes, 2:] = sizes_N2
        embeds_BC[plan.sizes] = model.region.encode_size(sizes_N2).to(hidden_BC.dtype)
    return numbers_B4, embeds_BC


def _choose(model: MoondreamModel, hidden_NC: Tensor, plan: Plan, num_candidates: int) -> tuple[Tensor, Tensor]:
    """Return the token ids of the rows that choose, and whether a row must be drawn again; see ``sample``."""
    special = model.config.tokenizer
    logits_NV = model.text.logits(hidden_NC).float()
    another_N, end_N = logits_NV[:, special.coord_id], logits_NV[:, special.eos_id]
    # A coordinate that is as likely as the end goes on. Other ids do not count, even if they are more likely.
    decided_N = (
        torch.where(another_N >= end_N, special.coord_id, special.eos_id) if plan.deciding_N is not None else None
    )
    if plan.masked_2N is not None:
        logits_NV[plan.masked_2N[0], plan.masked_2N[1]] = -torch.inf
    if plan.penalized is not None:
        rows, generated, penalties = plan.penalized
        logits_NV[rows] = penalize_repetition(logits_NV[rows], generated, penalties)
    ids_N, reaches_N = sample(logits_NV, plan.draws, num_candidates)
    if decided_N is not None:
        ids_N[plan.deciding_N] = decided_N[plan.deciding_N]
    if plan.forced_2N is not None:
        ids_N[plan.forced_2N[0]] = plan.forced_2N[1]
    return ids_N, reaches_N


def _may_point(kind: str, config: MoondreamConfig) -> bool:
    return kind == "thought" and config.region is not None


def _must_answer(row: Row) -> bool:
    """Return whether a reasoning has reached its limit."""
    return row.next_output == "thought" and len(row.thought_ids) == row.max_thoughts


def _decides(row: Row, config: MoondreamConfig) -> bool:
    """Return whether a row chooses between another object and the end only: Moondream 3, after the first object."""
    region = config.region
    return bool(row.next_output == "object" and row.objects and region and region.next_object == "coordinate")


def _impossible_ids(row: Row, config: MoondreamConfig) -> tuple[int, ...]:
    """Return the ids that can't be next. The reference masks them in every step of a text but the first."""
    special = config.tokenizer
    if row.next_output == "thought" and row.thought_ids:
        return (special.eos_id, special.size_id)
    if row.token_ids and special.answer_id is not None:
        return (special.answer_id,)
    return ()


def _penalties(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the numbers, the generated ids ``[N, L]`` and the repetition penalties of the rows that have both."""
    penalized = [
        (number, row.sampled_ids, row.sampling.repetition_penalty)
        for number, row in enumerate(rows)
        if row.sampled_ids and row.sampling.repetition_penalty != 1
    ]
    if not penalized:
        return None
    numbers, generated, penalties = zip(*penalized, strict=True)
    longest = max(map(len, generated))
    padded = [[*ids, *[ids[0]] * (longest - len(ids))] for ids in generated]
    return (
        from_host(numbers, torch.int64, device),
        from_host(padded, torch.int64, device),
        from_host(penalties, torch.float32, device),
    )
