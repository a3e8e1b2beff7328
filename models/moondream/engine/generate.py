"""Writing answers: what is taken from each hidden state, and when an answer ends.

Words are drawn from the head over the vocabulary, places from the region decoders; both kinds share every pass.
After moondream/torch/moondream.py @ 44146f1. Letters of the shapes: B rows, C channels, V vocabulary.
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
from .sampling import draw, penalize

# What the next hidden state of a row is asked for; "object" is: is there another one, and where is its x.
Wish = Literal["word", "object", "y", "size"]


@dataclass
class Row:
    """One answer being written.

    ``limit``: tokens, or objects, at most. ``places``: numbers of objects, x y or x y width height each.
    """

    prompt: Sequence[int]
    limit: int
    sampling: Sampling
    random: random.Random
    next_output: Wish
    sized: bool = False
    ids: list[int] = field(default_factory=list)
    places: list[list[float]] = field(default_factory=list)
    # Where the next embedding goes in the cache.
    position: int = 0
    finish_reason: FinishReason | None = None

    @property
    def stride(self) -> int:
        """Positions that one token, or one object, takes."""
        return 1 if self.next_output == "word" else 3 if self.sized else 2

    @property
    def room(self) -> int:
        """Positions that prompt and answer take behind the image prefix."""
        return len(self.prompt) + self.limit * self.stride


def initial_output(task: Task) -> Wish:
    """What the first hidden state of an answer is asked for."""
    return "object" if isinstance(task, Detect | Point) else "word"


def advance(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Take from each hidden state what its row wishes for; the embeddings ``[B, C]`` of what was taken.

    A row that ends here gets whatever embedding: nothing is to come behind it.
    """
    embeds_BC = torch.zeros_like(hidden_BC)
    choosing = [index for index, row in enumerate(rows) if row.next_output in ("word", "object")]
    if choosing:
        ids_B = _choose(model, hidden_BC[choosing], [rows[index] for index in choosing])
        embeds_BC[choosing] = model.text.embed(ids_B)
        for index, token in zip(choosing, ids_B.tolist(), strict=True):
            _take_token(model, rows[index], token)
    going_on = [index for index, row in enumerate(rows) if row.finish_reason is None]
    if sizes := [index for index in going_on if rows[index].next_output == "size"]:
        embeds_BC[sizes] = _take_sizes(model, hidden_BC[sizes], [rows[index] for index in sizes])
    if places := [index for index in going_on if rows[index].next_output in ("object", "y") and index not in sizes]:
        embeds_BC[places] = _take_coordinates(model, hidden_BC[places], [rows[index] for index in places])
    return embeds_BC


def _choose(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    logits_BV = model.text.logits(hidden_BC).float()
    # The id that starts an answer may come first (prefill is unmasked in the reference), never later.
    if (answer_id := model.config.tokenizer.answer_id) is not None:
        logits_BV[[index for index, row in enumerate(rows) if row.ids], answer_id] = -torch.inf
    for index, row in enumerate(rows):
        penalize(logits_BV[index], row.ids, row.sampling.repetition_penalty)
    # Whether there is another object is no matter of chance.
    temperatures = [row.sampling.temperature if row.next_output == "word" else 0.0 for row in rows]
    draws = [row.random.random() if temperature else 0.0 for row, temperature in zip(rows, temperatures, strict=True)]
    return draw(logits_BV, temperatures, [row.sampling.top_p for row in rows], draws)


def _take_token(model: MoondreamModel, row: Row, token: int) -> None:
    special = model.config.tokenizer
    if token == special.eos_id or (token in special.end_ids and row.next_output == "word"):
        row.finish_reason = "stop"
    elif row.next_output == "word":
        row.ids.append(token)
        if len(row.ids) == row.limit:
            row.finish_reason = "length"
    elif len(row.places) == row.limit:
        # Any other id than the end means another object.
        row.finish_reason = "length"


def _take_coordinates(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    logits = model.region.decode_coordinate(hidden_BC)
    values_B = bin_to_coordinate(logits.argmax(-1), logits.shape[-1])
    for row, value in zip(rows, values_B.tolist(), strict=True):
        if row.next_output == "object":
            row.places.append([value])
            row.next_output = "y"
        else:
            row.places[-1].append(value)
            row.next_output = "size" if row.sized else "object"
    return model.region.encode_coordinate(values_B[:, None]).to(hidden_BC.dtype)


def _take_sizes(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    logits = model.region.decode_size(hidden_BC)
    sizes_B2 = model.region.sizes_of(logits.argmax(-1), logits.shape[-1])
    for row, size in zip(rows, sizes_B2.tolist(), strict=True):
        row.places[-1].extend(size)
        row.next_output = "object"
    return model.region.encode_size(sizes_B2).to(hidden_BC.dtype)
