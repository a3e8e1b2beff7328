"""The state of one answer while it is decoded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ....tasks import Detect, FinishReason, Point, Sampling, Task, needs_reasoning

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
