"""A request inside the engine: its check, its row and its outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import groupby

from ...tasks import Answer, Box, Detect, FinishReason, Outcome, Point, Request, Spot, Task, Timings, Tokens
from ..network.config import MoondreamConfig, TokenizerConfig
from ..network.crops import Crops
from ..network.prompts import prompt_ids
from ..network.tokenizer import Tokenizer
from .decoding.row import Row, initial_output
from .decoding.sampling import seeded_random

# The crops of one picture, cut in another thread. Jobs that share a picture share this object.
CropsFuture = Future[Crops]


@dataclass(eq=False)
class Job:
    """A request without its picture, which may be large. ``row``: the answer so far. ``arrived``: time.perf_counter()
    when the job was made."""

    id: str
    task: Task
    crops: CropsFuture
    row: Row
    arrived: float = field(default_factory=time.perf_counter)
    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0

    def restart(self) -> None:
        """Delete the answer so far and seed the random generator again, so that the next answer is the same."""
        self.row = replace(
            self.row,
            random=seeded_random(self.id),
            next_output=initial_output(self.task),
            thought_ids=[],
            token_ids=[],
            objects=[],
            position=0,
            finish_reason=None,
        )


def check_picture(request: Request) -> None:
    """Check that the picture of a request can be encoded.

    Raises:
        ValueError: if the picture is not RGB or has no pixels.
    """
    if request.picture.mode != "RGB":
        raise ValueError(f"the picture is {request.picture.mode}: convert the picture to RGB first")
    if 0 in request.picture.size:
        raise ValueError("the picture has no pixels: give a picture of at least 1 x 1")


def new_row(request: Request, config: MoondreamConfig, tokenizer: Tokenizer) -> Row:
    """Return the row of a request, with the prompt encoded and nothing decoded.

    ``max_outputs`` is lowered where the context is too short for the longest possible answer. ``max_thoughts`` is
    lowered first.

    Raises:
        ValueError: if the prompt is not Unicode, the model does not support the task, or the context has no position
            left for an answer.
    """
    task = request.task
    prompt = prompt_ids(task, config.tokenizer.templates, tokenizer)
    row = Row(
        prompt=prompt,
        max_outputs=task.max_objects if isinstance(task, Detect | Point) else request.sampling.budget(task),
        sampling=request.sampling,
        random=seeded_random(request.id),
        next_output=initial_output(task),
        has_size=isinstance(task, Detect),
        max_thoughts=request.sampling.reasoning_budget(task),
    )
    free_positions = config.text.max_context - config.prefix_length - len(prompt)
    if row.max_thoughts:
        row.max_thoughts = max(1, min(row.max_thoughts, free_positions - 1 - row.max_outputs))
        free_positions -= row.max_thoughts + 1
    row.max_outputs = min(row.max_outputs, free_positions // row.positions_per_output)
    if row.max_outputs < 1:
        raise ValueError(f"the prompt of {len(prompt)} tokens leaves no room for an answer: give a shorter prompt")
    return row


def outcome_of(job: Job, config: MoondreamConfig, tokenizer: Tokenizer, backend: str) -> Outcome:
    """Return the outcome of a job whose row has ended, with its timings and its numbers of tokens.

    The finish reason is "length" also if the reasoning reached its limit.
    """
    row = job.row
    assert row.finish_reason is not None
    if isinstance(job.task, Detect):
        answer = Answer(row.finish_reason, objects=tuple(_box(*numbers) for numbers in row.objects))
    elif isinstance(job.task, Point):
        answer = Answer(row.finish_reason, points=tuple(Spot(*numbers) for numbers in row.objects))
    else:
        reason: FinishReason = "length" if 0 < row.max_thoughts <= len(row.thought_ids) else row.finish_reason
        thoughts = decode_thoughts(row.thought_ids, config.tokenizer, tokenizer) if row.max_thoughts else None
        answer = Answer(reason, text=tokenizer.decode(row.token_ids), reasoning=thoughts)
    num_generated = len(row.thought_ids) + len(row.token_ids) + row.positions_per_output * len(row.objects)
    tokens = Tokens(config.prefix_length + len(row.prompt), num_generated)
    return Outcome(job.id, answer, backend, Timings(job.wait_ms, job.encode_ms, job.generate_ms), tokens)


def decode_thoughts(ids: Sequence[int], special: TokenizerConfig, tokenizer: Tokenizer) -> str:
    """Return the text of a reasoning without the ids for coordinates, even if the tokenizer has text for these ids.

    Each part that the ids of grounding separate is decoded alone, so that no character spans two parts.
    """
    bounds = (special.start_ground_points_id, special.end_ground_id)
    parts = groupby((id for id in ids if id != special.coord_id), key=lambda id: id in bounds)
    return "".join(tokenizer.decode(list(part)) for is_bound, part in parts if not is_bound)


def _box(x: float, y: float, width: float, height: float) -> Box:
    """Return the box of this centre and size, clamped to [0, 1]. The reference does not clamp."""
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Box(*(min(1.0, max(0.0, corner)) for corner in corners))
