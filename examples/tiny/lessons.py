"""A scene as one training sequence: every task is a segment of its own after one shared image prefix.

A token attends to the prefix and to the earlier tokens of its segment. The positions of each segment start after the
prefix, so one pass over the picture trains all tasks.

Letters of the shapes: B pictures, N crops, T tokens after the prefix.
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
# Length of the caption and number of questions. All pairs have about the same number of tokens, to save padding.
_CONTENTS: tuple[tuple[Length, int], ...] = (("short", 3), ("normal", 3), ("normal", 3), ("long", 2), ("long", 2))
# Standard deviation of the noise on input coordinates: at inference they are the predictions of the model.
_BLUR = 0.005
_NO_PLACE = (math.nan, math.nan, math.nan)
# Coordinate, width, height; nan if absent.
Place = tuple[float, float, float]


class Batch(NamedTuple):
    """The data of one training step.

    ``inputs_BT3``: coordinate, width and height that replace the embedding of a token. ``targets_BT3``: those to decode
    from its hidden state. Both are nan if absent. ``target_ids_BT``: the next tokens; ``IGNORED`` has no loss.
    """

    pixels_NHWC: Tensor
    tilings: list[Tiling]
    ids_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    target_ids_BT: Tensor
    inputs_BT3: Tensor
    targets_BT3: Tensor
    marks: Marks
    outlines_NTC: Tensor


@dataclass
class Lesson:
    """The tokens of one scene after the prefix, and the crops of its picture."""

    crops: Crops
    marks: Marks
    outlines_NTC: Tensor
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    target_ids: list[int] = field(default_factory=list)
    inputs: list[Place] = field(default_factory=list)
    targets: list[Place] = field(default_factory=list)

    def add(
        self,
        start: int,
        ids: Sequence[int],
        target_ids: Sequence[int],
        inputs: Sequence[Place],
        targets: Sequence[Place],
    ) -> None:
        """Append a segment whose first token has the position ``start``."""
        number = self.segments[-1] + 1 if self.segments else 1
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.segments += [number] * len(ids)
        self.target_ids += target_ids
        self.inputs += inputs
        self.targets += targets


class Teacher:
    """Makes lessons of scenes and batches of lessons. ``things``: names to detect or point at in each scene."""

    def __init__(self, config: MoondreamConfig, tokenizer: Tokenizer, things: int = 1) -> None:
        self.config, self.tokenizer, self.things = config, tokenizer, things
        self.ids = config.tokenizer

    def batch(self, scenes: Sequence[Scene]) -> Batch:
        """Return a batch with one lesson for each scene, padded to the longest."""
        lessons = [self.lesson(scene) for scene in scenes]
        longest = max(len(lesson.ids) for lesson in lessons)

        def padded(rows: list[list[int]], filling: int) -> Tensor:
            return torch.tensor([row + [filling] * (longest - len(row)) for row in rows])

        def places(rows: list[list[Place]]) -> Tensor:
            return torch.tensor([row + [_NO_PLACE] * (longest - len(row)) for row in rows])

        return Batch(
            torch.from_numpy(np.concatenate([lesson.crops.pixels_NHWC for lesson in lessons])),
            [lesson.crops.tiling for lesson in lessons],
            padded([lesson.ids for lesson in lessons], 0),
            padded([lesson.positions for lesson in lessons], 0),
            padded([lesson.segments for lesson in lessons], -1),
            padded([lesson.target_ids for lesson in lessons], IGNORED),
            places([lesson.inputs for lesson in lessons]),
            places([lesson.targets for lesson in lessons]),
            Marks(*(torch.stack(parts) for parts in zip(*(lesson.marks for lesson in lessons), strict=True))),
            torch.cat([lesson.outlines_NTC for lesson in lessons]),
        )

    def lesson(self, scene: Scene) -> Lesson:
        """Return the lesson of a scene: a caption, some questions, and ``things`` names to detect or point at."""
        random = Random(scene.seed)
        vision = self.config.vision
        crops = prepare_crops(scene.image, vision)
        outlines_NTC = outline(torch.from_numpy(crops.pixels_NHWC), scene.ground, vision.grid)
        lesson = Lesson(crops, mark(scene, vision.grid), outlines_NTC)
        length, count = random.choice(_CONTENTS)
        self._add_text(lesson, self._prompt(Caption(length)), scene.captions[length])
        for question, answer in random.sample(scene.questions, count):
            self._add_text(lesson, self._prompt(Query(question)), answer)
        for _ in range(self.things):
            sized = random.random() < 0.65
            name, shapes = random.choice(scene.things)
            self._add_objects(random, lesson, self._prompt(Detect(name) if sized else Point(name)), shapes, sized)
        return lesson

    def _prompt(self, task: Task) -> list[int]:
        return prompt_ids(task, self.ids.templates, self.tokenizer)

    def _add_text(self, lesson: Lesson, prompt: Sequence[int], text: str) -> None:
        answer = self.tokenizer.encode(text)
        ids = [*prompt, *answer]
        target_ids = [IGNORED] * (len(prompt) - 1) + [*answer, self.ids.eos_id]
        lesson.add(self.config.text.prefix_attn, ids, target_ids, [_NO_PLACE] * len(ids), [_NO_PLACE] * len(ids))

    def _add_objects(
        self, random: Random, lesson: Lesson, prompt: Sequence[int], shapes: Sequence[Shape], sized: bool
    ) -> None:
        """Append a segment of objects: x, y and, if ``sized``, a size each. The target of a token is the next input."""
        places: list[Place] = []
        for shape in shapes:
            box, centre = shape.box, shape.centre
            places += [(value, math.nan, math.nan) for value in centre]
            if sized:
                places.append((math.nan, box.x_max - box.x_min, box.y_max - box.y_min))
        stride = 3 if sized else 2
        ids = [self.ids.size_id if math.isnan(place[0]) else self.ids.coord_id for place in places]
        more = [self.ids.coord_id if number < len(places) else self.ids.eos_id for number in range(len(places) + 1)]
        target_ids = [after if number % stride == 0 else IGNORED for number, after in enumerate(more)]
        blurred = [(x + random.gauss(0, _BLUR), w, h) for x, w, h in places]
        no_places = [_NO_PLACE] * (len(prompt) - 1)
        lesson.add(
            self.config.text.prefix_attn,
            [*prompt, *ids],
            [IGNORED] * (len(prompt) - 1) + target_ids,
            [*no_places, _NO_PLACE, *blurred],
            [*no_places, *places, _NO_PLACE],
        )
