"""What is where in a picture, patch by patch: a first lesson for the eyes, forgotten after training.

Letters of the shapes: B pictures, N crops, H W pixels, T patches, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moondream_beam.models.tiny.scenes import Scene
from moondream_beam.models.tiny.shapes import BANDS, COLOURS, GROUNDS, KINDS, SIZES

# Classes of each mark; class 0 of the first five says that no shape lies there.
_CLASSES = (4, 1 + len(KINDS), 1 + len(COLOURS), 1 + len(SIZES), 1 + len(BANDS), len(GROUNDS), 4)
_PLACES = 4
# How much each of them counts: the kind is the last to be learnt.
_WEIGHTS = (1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0)
# A patch is outlined in so many cells a side.
_CELLS = 5
# Pixels that stray further from the ground, in any colour, show a shape.
_CONTRAST = 40


class Marks(NamedTuple):
    """What is to be read off each patch.

    ``classes`` ``[..., T, 7]`` are the number from the left, kind, colour, size and band of the shape that covers the
    patch, the ground, and the count of shapes. ``places`` ``[..., T, 4]`` are that shape's centre and extent, or nan.
    """

    classes: Tensor
    places: Tensor


class Marker(nn.Module):
    """One linear layer that reads all marks of a patch off its channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, sum(_CLASSES) + _PLACES)

    def forward(self, hidden_BTC: Tensor, marks: Marks) -> Tensor:
        """The mean loss of the marks."""
        *logits, places = self.linear(hidden_BTC).split([*_CLASSES, _PLACES], dim=-1)
        wrong = [
            weight * F.cross_entropy(part.flatten(0, 1), right.flatten())
            for weight, part, right in zip(_WEIGHTS, logits, marks.classes.unbind(-1), strict=True)
        ]
        there = ~marks.places.isnan()
        away = F.smooth_l1_loss(places[there], marks.places[there], beta=0.02)
        return torch.stack(wrong).sum() / sum(_WEIGHTS) + 2 * away


class Outliner(nn.Module):
    """One linear layer that reads off which cells of a patch a shape covers: kinds differ in their outlines only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, _CELLS**2)

    def forward(self, features_NTC: Tensor, outlines_NTC: Tensor) -> Tensor:
        """The mean loss of the outlines."""
        return F.binary_cross_entropy_with_logits(self.linear(features_NTC), outlines_NTC)


def outline(pixels_NHWC: Tensor, ground: str, grid: int) -> Tensor:
    """How much of each cell of each patch a shape covers in these crops, in [0, 1], ``[N, T, cells]``."""
    away_NHW = (pixels_NHWC.int() - torch.tensor(GROUNDS[ground])).abs().amax(-1)
    covered = F.adaptive_avg_pool2d((away_NHW > _CONTRAST).float(), grid * _CELLS)
    return covered.unflatten(2, (grid, _CELLS)).unflatten(1, (grid, _CELLS)).transpose(2, 3).flatten(3).flatten(1, 2)


def mark(scene: Scene, grid: int) -> Marks:
    """The marks of a scene on ``grid`` x ``grid`` patches; a patch is of the shape in whose box its middle lies."""
    classes = torch.zeros(grid, grid, len(_CLASSES), dtype=torch.long)
    places = torch.full((grid, grid, _PLACES), torch.nan)
    middles = (torch.arange(grid) + 0.5) / grid
    for number, shape in enumerate(scene.shapes, start=1):
        box, centre = shape.box, shape.centre
        rows = (middles > box.y_min) & (middles < box.y_max)
        columns = (middles > box.x_min) & (middles < box.x_max)
        covered = rows[:, None] & columns[None, :]
        named = zip(
            (KINDS, list(COLOURS), SIZES, list(BANDS)), (shape.kind, shape.colour, shape.size, shape.band), strict=True
        )
        classes[covered, :5] = torch.tensor([number, *(1 + names.index(name) for names, name in named)])
        places[covered] = torch.tensor([*centre, box.x_max - box.x_min, box.y_max - box.y_min])
    classes[..., 5] = list(GROUNDS).index(scene.ground)
    classes[..., 6] = len(scene.shapes)
    return Marks(classes.flatten(0, 1), places.flatten(0, 1))
