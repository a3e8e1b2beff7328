"""An auxiliary task for the vision encoder: to predict for each patch which shape covers it. Used in training only.

Letters of the shapes: B pictures, N crops, H W pixels, T patches, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moondream_beam.models.tiny.scenes import Scene
from moondream_beam.models.tiny.shapes import BANDS, COLOURS, GROUNDS, KINDS, SIZES

# Number of classes of each mark. Class 0 of the first five means that no shape covers the patch.
_CLASSES = (4, 1 + len(KINDS), 1 + len(COLOURS), 1 + len(SIZES), 1 + len(BANDS), len(GROUNDS), 4)
_PLACES = 4
# Weights of their losses. The kind is the hardest to learn.
_WEIGHTS = (1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0)
# Cells along each side of a patch, for its outline.
_CELLS = 5
# A pixel that differs from the ground by more, in any channel, belongs to a shape.
_MIN_CONTRAST = 40


class Marks(NamedTuple):
    """The targets of each patch.

    ``classes`` ``[..., T, 7]``: number from the left, kind, colour, size and band of the shape that covers the patch;
    the ground; the number of shapes. ``places`` ``[..., T, 4]``: centre and extent of that shape, or nan.
    """

    classes: Tensor
    places: Tensor


class Marker(nn.Module):
    """One linear layer that predicts all marks of a patch from its channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, sum(_CLASSES) + _PLACES)

    def forward(self, hidden_BTC: Tensor, marks: Marks) -> Tensor:
        """Return the mean loss of the marks for hidden states ``[B, T, C]``."""
        *logits, places = self.linear(hidden_BTC).split([*_CLASSES, _PLACES], dim=-1)
        wrong = [
            weight * F.cross_entropy(part.flatten(0, 1), right.flatten())
            for weight, part, right in zip(_WEIGHTS, logits, marks.classes.unbind(-1), strict=True)
        ]
        there = ~marks.places.isnan()
        away = F.smooth_l1_loss(places[there], marks.places[there], beta=0.02)
        return torch.stack(wrong).sum() / sum(_WEIGHTS) + 2 * away


class Outliner(nn.Module):
    """One linear layer that predicts which cells of a patch a shape covers: kinds differ only in their outlines."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, _CELLS**2)

    def forward(self, features_NTC: Tensor, outlines_NTC: Tensor) -> Tensor:
        """Return the mean loss of the outlines for features ``[N, T, C]``."""
        return F.binary_cross_entropy_with_logits(self.linear(features_NTC), outlines_NTC)


def outline(pixels_NHWC: Tensor, ground: str, grid: int) -> Tensor:
    """Return the share of each cell that a shape covers, in [0, 1], ``[N, T, cells]``."""
    away_NHW = (pixels_NHWC.int() - torch.tensor(GROUNDS[ground])).abs().amax(-1)
    covered = F.adaptive_avg_pool2d((away_NHW > _MIN_CONTRAST).float(), grid * _CELLS)
    return covered.unflatten(2, (grid, _CELLS)).unflatten(1, (grid, _CELLS)).transpose(2, 3).flatten(3).flatten(1, 2)


def mark(scene: Scene, grid: int) -> Marks:
    """Return the marks of ``grid`` x ``grid`` patches. A shape covers the patches whose centres lie in its box."""
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
