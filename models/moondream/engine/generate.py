"""Decoding of one step: hidden states to the next output of each row, and the test whether an answer ends.

Tokens are sampled from the head over the vocabulary; coordinates and sizes come from the region decoders. One batch may
mix both. After moondream/torch/moondream.py @ 44146f1. Letters of the shapes: B rows, C channels, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ...tasks import Detect, FinishReason, Point, Sampling, Task, needs_reasoning
from ..checkpoints.weights import MoondreamModel
from ..network.region import bin_to_coordinate
from .sampling import apply_repetition_penalty, sample

# What the next hidden state of a row is decoded to. "thought": a token of the reasoning. "token": a token of the text.
# "object": whether there is another object, and its x if there is.
Output = Literal["thought", "token", "object", "y", "size"]


@dataclass
class Row:
    """The state of one answer while it is decoded.

    ``prompt``: token ids after the image prefix. ``max_outputs``: the limit on tokens of the answer or on objects.
    ``max_thoughts``: the limit on tokens of the reasoning before the answer; 0 without reasoning.
    ``has_size``: objects have width and height (Detect). ``objects``: ``[x, y]`` or ``[x, y, width, height]`` each, in
    fractions of the picture; x and y are the centre. ``position``: where the next embedding goes in the KV cache.
    ``finish_reason``: None until the answer has ended.
    """

    prompt: Sequence[int]
    max_outputs: int
    sampling: Sampling
    random: random.Random
    next_output: Output
    has_size: bool = False
    max_thoughts: int = 0
    thought_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    objects: list[list[float]] = field(default_factory=list)
    position: int = 0
    finish_reason: FinishReason | None = None

    @property
    def positions_per_output(self) -> int:
        """Positions of the KV cache for one token (1), one point (2) or one box (3)."""
        return 1 if self.next_output in ("thought", "token") else 3 if self.has_size else 2

    @property
    def num_positions(self) -> int:
        """Positions of the KV cache for the prompt and the longest possible answer, without the image prefix."""
        # The id that ends the reasoning takes a position, too.
        thoughts = self.max_thoughts + 1 if self.max_thoughts else 0
        return len(self.prompt) + thoughts + self.max_outputs * self.positions_per_output

    @property
    def sampled_ids(self) -> list[int]:
        """The tokens so far of the text that is decoded now: of the reasoning, or of the answer."""
        return self.thought_ids if self.next_output == "thought" else self.token_ids


def initial_output(task: Task) -> Output:
    """Return the first output of an answer.

    It is "object" for Detect and Point, "thought" for a Query with reasoning, and "token" for all others.
    """
    if isinstance(task, Detect | Point):
        return "object"
    return "thought" if needs_reasoning(task) else "token"


def decode_outputs(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Decode the next output of each row from its hidden state, and add it to the answer or the reasoning of the row.

    ``hidden_BC`` are hidden states before the last norm, one for each row.

    Returns:
        The embeddings ``[B, C]`` of the outputs: the next input of each row. They mean nothing for rows that ended.
    """
    embeds_BC = torch.zeros_like(hidden_BC)
    choosing = [index for index, row in enumerate(rows) if row.next_output in ("thought", "token", "object")]
    if choosing:
        ids_B = _sample_tokens(model, hidden_BC[choosing], [rows[index] for index in choosing])
        embeds_BC[choosing] = model.text.embed(ids_B)
        tokens = dict(zip(choosing, ids_B.tolist(), strict=True))
        coord_id = model.config.tokenizer.coord_id
        # A reasoning points at the picture: its next input is the coordinate, and not the token that announces it.
        if pointing := [i for i, token in tokens.items() if token == coord_id and rows[i].next_output == "thought"]:
            embeds_BC[pointing] = _coordinates(model, hidden_BC[pointing])[1]
        for index, token in tokens.items():
            _add_token(model, rows[index], token)
    unfinished = [index for index, row in enumerate(rows) if row.finish_reason is None]
    if sizes := [index for index in unfinished if rows[index].next_output == "size"]:
        embeds_BC[sizes] = _decode_sizes(model, hidden_BC[sizes], [rows[index] for index in sizes])
    coordinates = [index for index in unfinished if rows[index].next_output in ("object", "y") and index not in sizes]
    if coordinates:
        embeds_BC[coordinates] = _decode_coordinates(model, hidden_BC[coordinates], [rows[i] for i in coordinates])
    return embeds_BC


def _sample_tokens(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return one token id ``[B]`` for each row. A row of "object" takes the most likely one at any temperature."""
    logits_BV = model.text.logits(hidden_BC).float()
    for index, row in enumerate(rows):
        _mask(model, logits_BV[index], row)
        apply_repetition_penalty(logits_BV[index], row.sampled_ids, row.sampling.repetition_penalty)
    temperatures = [0.0 if row.next_output == "object" else row.sampling.temperature for row in rows]
    uniforms = [
        row.random.random() if temperature else 0.0 for row, temperature in zip(rows, temperatures, strict=True)
    ]
    return sample(logits_BV, temperatures, [row.sampling.top_p for row in rows], uniforms)


def _mask(model: MoondreamModel, logits_V: Tensor, row: Row) -> None:
    """Set the logits of the ids that cannot be next to minus infinity, in place."""
    special, region = model.config.tokenizer, model.config.region
    allowed: list[int] = []
    if row.next_output == "thought" and len(row.thought_ids) == row.max_thoughts:
        allowed = [special.answer_id or 0]
    elif row.next_output == "object" and row.objects and region and region.next_object == "coordinate":
        # A coordinate that is as likely as the end goes on. Other ids do not count, even if they are more likely.
        more = logits_V[special.coord_id] >= logits_V[special.eos_id]
        allowed = [special.coord_id if more else special.eos_id]
    if allowed:
        kept = logits_V[allowed].clone()
        logits_V.fill_(-torch.inf)
        logits_V[allowed] = kept
    # The reference masks these ids in every step of a text but the first.
    elif row.next_output == "thought" and row.thought_ids:
        logits_V[[special.eos_id, special.size_id]] = -torch.inf
    elif row.token_ids and special.answer_id is not None:
        logits_V[special.answer_id] = -torch.inf


def _add_token(model: MoondreamModel, row: Row, token: int) -> None:
    """Append a sampled token to the reasoning or the answer of a row, and set ``finish_reason`` if the answer ends.

    An end token gives "stop" and is not appended. ``max_outputs`` tokens, or one more object than that, give "length".
    The id that starts an answer ends a reasoning and is not appended.
    """
    special = model.config.tokenizer
    if row.next_output == "thought":
        if token == special.answer_id:
            row.next_output = "token"
        else:
            row.thought_ids.append(token)
    elif token == special.eos_id or (token in special.end_ids and row.next_output == "token"):
        row.finish_reason = "stop"
    elif row.next_output == "token":
        row.token_ids.append(token)
        if len(row.token_ids) == row.max_outputs:
            row.finish_reason = "length"
    elif len(row.objects) == row.max_outputs:
        # Any id other than the end announces another object.
        row.finish_reason = "length"


def _decode_coordinates(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Add an x or a y to each row, and return the embeddings ``[B, C]`` of the coordinates."""
    values_B, embeds_BC = _coordinates(model, hidden_BC)
    for row, value in zip(rows, values_B.tolist(), strict=True):
        if row.next_output == "object":
            row.objects.append([value])
            row.next_output = "y"
        else:
            row.objects[-1].append(value)
            row.next_output = "size" if row.has_size else "object"
    return embeds_BC


def _coordinates(model: MoondreamModel, hidden_BC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinate that each hidden state stands for, ``[B]``, and its embedding ``[B, C]``."""
    logits = model.region.decode_coordinate(hidden_BC)
    values_B = bin_to_coordinate(logits.argmax(-1), logits.shape[-1])
    return values_B, model.region.encode_coordinate(values_B[:, None]).to(hidden_BC.dtype)


def _decode_sizes(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Add width and height to the last object of each row, and return their embeddings ``[B, C]``."""
    logits = model.region.decode_size(hidden_BC)
    sizes_B2 = model.region.bins_to_sizes(logits.argmax(-1), logits.shape[-1])
    for row, size in zip(rows, sizes_B2.tolist(), strict=True):
        row.objects[-1].extend(size)
        row.next_output = "object"
    return model.region.encode_size(sizes_B2).to(hidden_BC.dtype)
