"""Scenes: pictures with known contents, drawn from a seed, to train, test and evaluate the tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from random import Random

from PIL import Image

from ..tasks import Length
from .shapes import GROUNDS, Shape, arrange, paint
from .words import captions, questions, things

# Training uses seeds from 0 upwards, far fewer than its range has.
TRAINING_SEEDS = range(0, 2**40)
VALIDATION_SEEDS = range(2**40, 2**40 + 1_000)
TEST_SEEDS = range(2**41, 2**41 + 1_000)
EVALUATION_SEEDS = range(2**42, 2**42 + 500)

_MAX_ASPECT = 2.0
_MIN_SIDE, _MAX_SIDE = 64, 400


@dataclass(frozen=True)
class Scene:
    """One picture of ``size`` (width, height) pixels, with the right answers to every task on it.

    ``ground``: name of the background colour. ``shapes``: from left to right. ``questions``: with right answers.
    ``things``: names to detect or point at, each with the shapes that it fits, from left to right; some fit none.
    """

    seed: int
    size: tuple[int, int]
    ground: str
    shapes: tuple[Shape, ...]
    captions: dict[Length, str]
    questions: tuple[tuple[str, str], ...]
    things: tuple[tuple[str, tuple[Shape, ...]], ...]

    @cached_property
    def image(self) -> Image.Image:
        """The RGB picture, painted at the first access."""
        return paint(Random(self.seed), self.shapes, self.ground, self.size)


def draw(seed: int, size: tuple[int, int] | None = None) -> Scene:
    """Return the scene of a seed, always the same. ``size``: (width, height) in pixels; None draws a size by the seed.

    Raises:
        ValueError: if a side is below 64 pixels, or one side is more than twice the other.
    """
    random = Random(seed)
    size = size or _draw_size(random)
    if min(size) < _MIN_SIDE or max(size) > _MAX_ASPECT * min(size):
        raise ValueError(f"size {size}: give sides of at least {_MIN_SIDE} pixels, neither more than twice the other")
    ground = random.choice(list(GROUNDS))
    shapes = arrange(random, random.choices((1, 2, 3), (25, 40, 35))[0], size)
    texts = captions(shapes, ground)
    return Scene(seed, size, ground, shapes, texts, questions(random, shapes, ground), things(random, shapes))


def _draw_size(random: Random) -> tuple[int, int]:
    """Return a random (width, height). Three quarters are so small that they have one crop; the others have tiles."""
    short = random.randint(_MIN_SIDE, 80) if random.random() < 0.75 else random.randint(100, _MAX_SIDE)
    long = min(_MAX_SIDE, round(short * random.uniform(1.0, _MAX_ASPECT)))
    return (short, long) if random.random() < 0.5 else (long, short)
