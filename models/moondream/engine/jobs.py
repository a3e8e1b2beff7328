"""A request on its way through the engine: checked, turned into a row, and told as an outcome."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from ...tasks import Answer, Box, Detect, Outcome, Point, Request, Spot, Task, Timings, Tokens
from ..network.config import MoondreamConfig
from ..network.crops import Crops
from ..network.prompts import prompt_ids
from ..network.tokenizer import Tokenizer
from .generate import Row, initial_output
from .sampling import generator

# What the requests of one picture share: its crops, once they are cut.
Cut = Future[Crops]


@dataclass(eq=False)
class Job:
    """A request, but for its picture, which may be large. ``row`` is its answer so far."""

    id: str
    task: Task
    cut: Cut
    row: Row
    arrived: float = field(default_factory=time.perf_counter)
    wait_ms: float = 0.0
    encode_ms: float = 0.0
    generate_ms: float = 0.0

    def restart(self) -> None:
        """Forget the answer so far. Its draws begin anew as well: the next answer will be the same."""
        self.row = replace(
            self.row,
            random=generator(self.id),
            next_output=initial_output(self.task),
            ids=[],
            places=[],
            position=0,
            finish_reason=None,
        )


def check(request: Request) -> None:
    """Refuse a picture that is not ready to be seen.

    Raises:
        ValueError: it is not RGB, or has no pixels.
    """
    if request.picture.mode != "RGB":
        raise ValueError(f"the picture is {request.picture.mode}; decode it to RGB first")
    if 0 in request.picture.size:
        raise ValueError("the picture has no pixels")


def new_row(request: Request, config: MoondreamConfig, tokenizer: Tokenizer) -> Row:
    """The row of a request. An answer that would not fit the context ends where the context ends, and says "length".

    Raises:
        ValueError: its prompt leaves no room for an answer, or is no Unicode.
    """
    task = request.task
    prompt = prompt_ids(task, config.tokenizer.templates, tokenizer)
    row = Row(
        prompt=prompt,
        limit=task.max_objects if isinstance(task, Detect | Point) else request.sampling.budget(task),
        sampling=request.sampling,
        random=generator(request.id),
        next_output=initial_output(task),
        sized=isinstance(task, Detect),
    )
    room = config.text.max_context - config.prefix_length - len(prompt)
    row.limit = min(row.limit, room // row.stride)
    if row.limit < 1:
        raise ValueError(f"the prompt of {len(prompt)} tokens leaves no room for an answer; ask a shorter one")
    return row


def outcome_of(job: Job, config: MoondreamConfig, tokenizer: Tokenizer, backend: str) -> Outcome:
    """What an ended job amounts to."""
    row = job.row
    assert row.finish_reason is not None
    if isinstance(job.task, Detect):
        answer = Answer(row.finish_reason, objects=tuple(_box(*place) for place in row.places))
    elif isinstance(job.task, Point):
        answer = Answer(row.finish_reason, points=tuple(Spot(*place) for place in row.places))
    else:
        answer = Answer(row.finish_reason, text=tokenizer.decode(row.ids))
    written = len(row.ids) + row.stride * len(row.places)
    tokens = Tokens(config.prefix_length + len(row.prompt), written)
    return Outcome(job.id, answer, backend, Timings(job.wait_ms, job.encode_ms, job.generate_ms), tokens)


def _box(x: float, y: float, width: float, height: float) -> Box:
    """Centre and size to corners, clamped to the picture (the reference lets boxes hang over its edge)."""
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Box(*(min(1.0, max(0.0, corner)) for corner in corners))
