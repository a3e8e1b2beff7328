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

from ...tasks import Detect, FinishReason, Point, Sampling, Task
from ..checkpoints.weights import MoondreamModel
from ..network.region import bin_to_coordinate
from .sampling import apply_repetition_penalty, sample

# What the next hidden state of a row is decoded to. "object": whether there is another object, and its x if there is.
Output = Literal["token", "object", "y", "size"]


@dataclass
class Row:
    """The state of one answer while it is decoded.

    ``prompt``: token ids after the image prefix. ``max_outputs``: the limit on tokens or on objects.
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
    token_ids: list[int] = field(default_factory=list)
    objects: list[list[float]] = field(default_factory=list)
    position: int = 0
    finish_reason: FinishReason | None = None

    @property
    def positions_per_output(self) -> int:
        """Positions of the KV cache for one token (1), one point (2) or one box (3)."""
        return 1 if self.next_output == "token" else 3 if self.has_size else 2

    @property
    def num_positions(self) -> int:
        """Positions of the KV cache for the prompt and the longest possible answer, without the image prefix."""
        return len(self.prompt) + self.max_outputs * self.positions_per_output


def initial_output(task: Task) -> Output:
    """Return the first output of an answer: "object" for Detect and Point, "token" for Caption and Query."""
    return "object" if isinstance(task, Detect | Point) else "token"


def decode_outputs(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Decode the next output of each row from its hidden state, and add it to the row.

    ``hidden_BC`` are hidden states before the last norm, one for each row.

    Returns:
        The embeddings ``[B, C]`` of the outputs: the next input of each row. They mean nothing for rows that ended.
    """
    embeds_BC = torch.zeros_like(hidden_BC)
    choosing = [index for index, row in enumerate(rows) if row.next_output in ("token", "object")]
    if choosing:
        ids_B = _sample_tokens(model, hidden_BC[choosing], [rows[index] for index in choosing])
        embeds_BC[choosing] = model.text.embed(ids_B)
        for index, token in zip(choosing, ids_B.tolist(), strict=True):
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
    # The reference masks the id that starts an answer in every step but the first.
    if (answer_id := model.config.tokenizer.answer_id) is not None:
        logits_BV[[index for index, row in enumerate(rows) if row.token_ids], answer_id] = -torch.inf
    for index, row in enumerate(rows):
        apply_repetition_penalty(logits_BV[index], row.token_ids, row.sampling.repetition_penalty)
    temperatures = [row.sampling.temperature if row.next_output == "token" else 0.0 for row in rows]
    uniforms = [
        row.random.random() if temperature else 0.0 for row, temperature in zip(rows, temperatures, strict=True)
    ]
    return sample(logits_BV, temperatures, [row.sampling.top_p for row in rows], uniforms)


def _add_token(model: MoondreamModel, row: Row, token: int) -> None:
    """Append a sampled token to the row, or end the row if the token or the limit ends it."""
    special = model.config.tokenizer
    if token == special.eos_id or (token in special.end_ids and row.next_output == "token"):
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
    logits = model.region.decode_coordinate(hidden_BC)
    values_B = bin_to_coordinate(logits.argmax(-1), logits.shape[-1])
    for row, value in zip(rows, values_B.tolist(), strict=True):
        if row.next_output == "object":
            row.objects.append([value])
            row.next_output = "y"
        else:
            row.objects[-1].append(value)
            row.next_output = "size" if row.has_size else "object"
    return model.region.encode_coordinate(values_B[:, None]).to(hidden_BC.dtype)


def _decode_sizes(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Add width and height to the last object of each row, and return their embeddings ``[B, C]``."""
    logits = model.region.decode_size(hidden_BC)
    sizes_B2 = model.region.bins_to_sizes(logits.argmax(-1), logits.shape[-1])
    for row, size in zip(rows, sizes_B2.tolist(), strict=True):
        row.objects[-1].extend(size)
        row.next_output = "object"
    return model.region.encode_size(sizes_B2).to(hidden_BC.dtype)
