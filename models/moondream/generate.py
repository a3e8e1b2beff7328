"""The decode loop: a batch of prompts behind their image prefixes, each written to its end.

Words are drawn from the head over the vocabulary, places from the region decoders; both kinds share every pass.
After moondream/torch/moondream.py @ 44146f1. Letters of the shapes: B rows, T tokens, S positions, C channels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..tasks import FinishReason, Sampling
from .region import bin_to_coordinate
from .sampling import draw, penalize
from .text import Cache
from .weights import MoondreamModel

# What the next hidden state of a row is asked for; "object" is: is there another one, and where is its x.
Wish = Literal["word", "object", "y", "size"]


@dataclass
class Row:
    """One answer being written, behind the image prefix of index ``prefix``.

    ``limit``: tokens, or objects, at most. ``places``: numbers of objects, x y or x y width height each.
    """

    prompt: Sequence[int]
    limit: int
    sampling: Sampling
    random: random.Random
    wish: Wish
    sized: bool = False
    prefix: int = 0
    ids: list[int] = field(default_factory=list)
    places: list[list[float]] = field(default_factory=list)
    steps: int = 0
    finish_reason: FinishReason | None = None

    @property
    def room(self) -> int:
        """Positions that prompt and answer can take behind the prefix, and one on which an ended row idles."""
        return len(self.prompt) + self.limit * self.stride + 1

    @property
    def stride(self) -> int:
        """Positions that one token, or one object, takes."""
        return 1 if self.wish == "word" else 3 if self.sized else 2


def generate(model: MoondreamModel, prefixes: Cache, rows: list[Row]) -> None:
    """Write every row to its end. ``prefixes`` holds the image prefixes, ``[layers, pictures, H, P, D]``."""
    batch = _Batch(model, prefixes, rows)
    hidden_BC = batch.prefill()
    while True:
        embeds_BC = advance(model, hidden_BC, batch.rows)
        alive = [index for index, row in enumerate(batch.rows) if row.finish_reason is None]
        if not alive:
            return
        # Dropping rows copies the cache: worth it once half of the work would be for nothing.
        if 2 * len(alive) <= len(batch.rows):
            batch.keep(alive)
            embeds_BC = embeds_BC[alive]
        hidden_BC = batch.decode(embeds_BC)


def advance(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    """Take from each hidden state what its row wishes for; the embeddings ``[B, C]`` of what was taken.

    Rows that end here, or had ended, get a row of zeros.
    """
    embeds_BC = torch.zeros_like(hidden_BC)
    alive = [index for index, row in enumerate(rows) if row.finish_reason is None]
    choosing = [index for index in alive if rows[index].wish in ("word", "object")]
    if choosing:
        ids = _choose(model, hidden_BC[choosing], [rows[index] for index in choosing])
        for index, token in zip(choosing, ids, strict=True):
            _take_token(model, rows[index], token)
        words = [index for index in choosing if rows[index].wish == "word" and rows[index].finish_reason is None]
        if words:
            embeds_BC[words] = model.text.embed(
                torch.tensor([rows[index].ids[-1] for index in words], device=hidden_BC.device)
            )
    alive = [index for index in alive if rows[index].finish_reason is None]
    if sizes := [index for index in alive if rows[index].wish == "size"]:
        embeds_BC[sizes] = _take_sizes(model, hidden_BC[sizes], [rows[index] for index in sizes])
    if places := [index for index in alive if rows[index].wish in ("object", "y") and index not in sizes]:
        embeds_BC[places] = _take_coordinates(model, hidden_BC[places], [rows[index] for index in places])
    return embeds_BC


def _choose(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> list[int]:
    logits_BV = model.text.logits(hidden_BC).float()
    # The id that starts an answer may come first (prefill is unmasked in the reference), never later.
    if (answer_id := model.config.tokenizer.answer_id) is not None:
        logits_BV[[index for index, row in enumerate(rows) if row.ids], answer_id] = -torch.inf
    for index, row in enumerate(rows):
        penalize(logits_BV[index], row.ids, row.sampling.repetition_penalty)
    # Whether there is another object is no matter of chance.
    temperatures = [row.sampling.temperature if row.wish == "word" else 0.0 for row in rows]
    draws = [row.random.random() if temperature else 0.0 for row, temperature in zip(rows, temperatures, strict=True)]
    ids: list[int] = draw(logits_BV, temperatures, [row.sampling.top_p for row in rows], draws).tolist()
    return ids


def _take_token(model: MoondreamModel, row: Row, token: int) -> None:
    if token == model.config.tokenizer.eos_id or token in model.config.tokenizer.end_ids:
        row.finish_reason = "stop"
    elif row.wish == "word":
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
        if row.wish == "object":
            row.places.append([value])
            row.wish = "y"
        else:
            row.places[-1].append(value)
            row.wish = "size" if row.sized else "object"
    return model.region.encode_coordinate(values_B[:, None]).to(hidden_BC.dtype)


def _take_sizes(model: MoondreamModel, hidden_BC: Tensor, rows: Sequence[Row]) -> Tensor:
    logits = model.region.decode_size(hidden_BC)
    sizes_B2 = model.region.sizes_of(logits.argmax(-1), logits.shape[-1])
    for row, size in zip(rows, sizes_B2.tolist(), strict=True):
        row.places[-1].extend(size)
        row.wish = "object"
    return model.region.encode_size(sizes_B2).to(hidden_BC.dtype)


class _Batch:
    """The cache of the rows still being written, and where each of them stands."""

    def __init__(self, model: MoondreamModel, prefixes: Cache, rows: list[Row]) -> None:
        self.model, self.rows = model, rows
        self.prefix_length = prefixes.keys.shape[3]
        self.device = prefixes.keys.device
        longest = max(row.room for row in rows)
        self.cache = Cache.empty(model.config.text, len(rows), self.prefix_length + longest, like=prefixes.keys)
        order = torch.tensor([row.prefix for row in rows], device=self.device)
        for mine, theirs in zip(self.cache, prefixes, strict=True):
            mine[:, :, :, : self.prefix_length] = theirs[:, order]

    def prefill(self) -> Tensor:
        """Run the prompts, padded on the right; the hidden state behind each prompt, ``[B, C]``.

        What a pad leaves in the cache lies behind its row's position, where nothing looks until it is overwritten.
        """
        lengths = [len(row.prompt) for row in self.rows]
        widest = max(lengths)
        ids_BT = torch.tensor(
            [[*row.prompt, *[0] * (widest - length)] for row, length in zip(self.rows, lengths, strict=True)],
            device=self.device,
        )
        positions_BT = self.prefix_length + torch.arange(widest, device=self.device).expand(len(self.rows), -1)
        hidden_BTC = self._run(self.model.text.embed(ids_BT), positions_BT, self.prefix_length + widest)
        return hidden_BTC[range(len(lengths)), [length - 1 for length in lengths]]

    def decode(self, embeds_BC: Tensor) -> Tensor:
        """Run one more embedding of every row; the hidden states behind them, ``[B, C]``."""
        positions = [self.prefix_length + len(row.prompt) + row.steps for row in self.rows]
        for row in self.rows:
            if row.finish_reason is None:
                row.steps += 1
        positions_BT = torch.tensor(positions, device=self.device)[:, None]
        return self._run(embeds_BC[:, None], positions_BT, max(positions) + 1)[:, 0]

    def keep(self, alive: Sequence[int]) -> None:
        """Go on with these rows only."""
        order = torch.tensor(alive, device=self.device)
        self.cache = Cache(self.cache.keys[:, order], self.cache.values[:, order])
        self.rows = [self.rows[index] for index in alive]

    def _run(self, embeds_BTC: Tensor, positions_BT: Tensor, seen: int) -> Tensor:
        mask_B1TS = torch.arange(seen, device=self.device) <= positions_BT[:, None, :, None]
        return self.model.text(embeds_BTC, positions_BT, mask_B1TS, self.cache)
