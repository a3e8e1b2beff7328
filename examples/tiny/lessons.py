"""A scene as one training sequence: every task in its own segment behind one shared image prefix.

A segment sees the prefix and its own past, never another segment, and its positions start anew behind the prefix: so
one pass over the picture teaches all tasks. Letters of the shapes: B pictures, N crops, T tokens behind the prefix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moondream_beam.models.moondream.network.config import MoondreamConfig
from moondream_beam.models.moondream.network.crops import Crops, Tiling, prepare_crops
from moondream_beam.models.moondream.network.prompts import prompt_ids
from moondream_beam.models.moondream.network.tokenizer import Tokenizer
from moondream_beam.models.tasks import Caption, Detect, Length, Point, Query, Task
from moondream_beam.models.tiny.scenes import Scene
from moondream_beam.models.tiny.shapes import Shape

from .marks import Marks, mark, outline

IGNORED = -100
# A caption and so many questions, of about equal length together, so that little of a batch is padding.
_CONTENTS: tuple[tuple[Length, int], ...] = (("short", 3), ("normal", 3), ("normal", 3), ("long", 2), ("long", 2))
# Coordinates fed back are blurred by so much, for the model's own will be.
_BLUR = 0.005
_NOTHING = (math.nan, math.nan, math.nan)
# Coordinate, width, height; nan where there is none.
Place = tuple[float, float, float]


class Batch(NamedTuple):
    """What one step learns from.

    ``given_BT3`` are the coordinate, width and height that stand in for a token's embedding, ``due_BT3`` those to be
    read from its hidden state; nan where there is none. ``due_ids_BT`` are the next tokens, -100 where untaught.
    """

    pixels_NHWC: Tensor
    tilings: list[Tiling]
    ids_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    due_ids_BT: Tensor
    given_BT3: Tensor
    due_BT3: Tensor
    marks: Marks
    outlines_NTC: Tensor


@dataclass
class Lesson:
    """The tokens of one scene behind the prefix, with the picture's crops."""

    crops: Crops
    marks: Marks
    outlines_NTC: Tensor
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    due_ids: list[int] = field(default_factory=list)
    given: list[Place] = field(default_factory=list)
    due: list[Place] = field(default_factory=list)

    def add(
        self, start: int, ids: Sequence[int], due_ids: Sequence[int], given: Sequence[Place], due: Sequence[Place]
    ) -> None:
        """Append a segment whose first token has position ``start``."""
        number = self.segments[-1] + 1 if self.segments else 1
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.segments += [number] * len(ids)
        self.due_ids += due_ids
        self.given += given
        self.due += due


class Teacher:
    """Turns scenes into lessons and lessons into batches, by the templates of one configuration."""

    def __init__(self, config: MoondreamConfig, tokenizer: Tokenizer, things: int = 1) -> None:
        self.config, self.tokenizer, self.things = config, tokenizer, things
        self.ids = config.tokenizer

    def batch(self, scenes: Sequence[Scene]) -> Batch:
        """One lesson a scene, padded to the longest."""
        lessons = [self.lesson(scene) for scene in scenes]
        longest = max(len(lesson.ids) for lesson in lessons)

        def padded(rows: list[list[int]], filling: int) -> Tensor:
            return torch.tensor([row + [filling] * (longest - len(row)) for row in rows])

        def places(rows: list[list[Place]]) -> Tensor:
            return torch.tensor([row + [_NOTHING] * (longest - len(row)) for row in rows])

        return Batch(
            torch.from_numpy(np.concatenate([lesson.crops.pixels_NHWC for lesson in lessons])),
            [lesson.crops.tiling for lesson in lessons],
            padded([lesson.ids for lesson in lessons], 0),
            padded([lesson.positions for lesson in lessons], 0),
            padded([lesson.segments for lesson in lessons], -1),
            padded([lesson.due_ids for lesson in lessons], IGNORED),
            places([lesson.given for lesson in lessons]),
            places([lesson.due for lesson in lessons]),
            Marks(*(torch.stack(parts) for parts in zip(*(lesson.marks for lesson in lessons), strict=True))),
            torch.cat([lesson.outlines_NTC for lesson in lessons]),
        )

    def lesson(self, scene: Scene) -> Lesson:
        """A caption, some questions, and ``things`` names to detect or point at."""
        random = Random(scene.seed)
        vision = self.config.vision
        crops = prepare_crops(scene.image, vision)
        outlines_NTC = outline(torch.from_numpy(crops.pixels_NHWC), scene.ground, vision.grid)
        lesson = Lesson(crops, mark(scene, vision.grid), outlines_NTC)
        length, count = random.choice(_CONTENTS)
        self._tell(lesson, self._prompt(Caption(length)), scene.captions[length])
        for question, answer in random.sample(scene.questions, count):
            self._tell(lesson, self._prompt(Query(question)), answer)
        for _ in range(self.things):
            sized = random.random() < 0.65
            name, shapes = random.choice(scene.things)
            self._show(random, lesson, self._prompt(Detect(name) if sized else Point(name)), shapes, sized)
        return lesson

    def _prompt(self, task: Task) -> list[int]:
        return prompt_ids(task, self.ids.templates, self.tokenizer)

    def _tell(self, lesson: Lesson, prompt: Sequence[int], text: str) -> None:
        answer = self.tokenizer.encode(text)
        ids = [*prompt, *answer]
        due_ids = [IGNORED] * (len(prompt) - 1) + [*answer, self.ids.eos_id]
        lesson.add(self.config.text.prefix_attn, ids, due_ids, [_NOTHING] * len(ids), [_NOTHING] * len(ids))

    def _show(
        self, random: Random, lesson: Lesson, prompt: Sequence[int], shapes: Sequence[Shape], sized: bool
    ) -> None:
        """Each object is x, y and with boxes its size; what is due at one token is given in the next."""
        places: list[Place] = []
        for shape in shapes:
            box, centre = shape.box, shape.centre
            places += [(value, math.nan, math.nan) for value in centre]
            if sized:
                places.append((math.nan, box.x_max - box.x_min, box.y_max - box.y_min))
        stride = 3 if sized else 2
        ids = [self.ids.size_id if math.isnan(place[0]) else self.ids.coord_id for place in places]
        more = [self.ids.coord_id if number < len(places) else self.ids.eos_id for number in range(len(places) + 1)]
        due_ids = [after if number % stride == 0 else IGNORED for number, after in enumerate(more)]
        blurred = [(x + random.gauss(0, _BLUR), w, h) for x, w, h in places]
        silent = [_NOTHING] * (len(prompt) - 1)
        lesson.add(
            self.config.text.prefix_attn,
            [*prompt, *ids],
            [IGNORED] * (len(prompt) - 1) + due_ids,
            [*silent, _NOTHING, *blurred],
            [*silent, *places, _NOTHING],
        )
