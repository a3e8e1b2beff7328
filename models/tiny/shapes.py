"""Flat shapes on a plain background: their random layout in a picture, and their painting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from ..tasks import Box, Spot

KINDS = ("circle", "square", "triangle")
SIZES = ("large", "small")
COLOURS = {
    "red": (214, 48, 49),
    "orange": (242, 132, 28),
    "yellow": (248, 208, 52),
    "green": (46, 160, 88),
    "blue": (44, 98, 214),
    "purple": (138, 70, 178),
}
GROUNDS = {"white": (250, 250, 247), "grey": (156, 160, 166), "black": (24, 25, 30), "pink": (250, 190, 205)}
BANDS = {"near the top": (0.0, 0.40), "in the middle": (0.47, 0.53), "near the bottom": (0.60, 1.0)}

# Range of a circle's diameter, divided by the square root of the picture's area. Large and small do not overlap.
_DIAMETERS = {"large": (0.37, 0.44), "small": (0.25, 0.28)}
# Width and height of each kind, divided by that diameter, so that kinds of one size have about the same area.
_EXTENTS = {"circle": (1.0, 1.0), "square": (0.9, 0.9), "triangle": (1.15, 1.02)}
_EDGE = 0.02
_GAP = 0.03
_STEP = 0.12
_SUPERSAMPLING = 4
_JITTER = 7


@dataclass(frozen=True)
class Shape:
    """One shape: size, colour and kind by name, its vertical ``band``, and its ``box`` in fractions of the picture."""

    size: str
    colour: str
    kind: str
    band: str
    box: Box

    @property
    def centre(self) -> Spot:
        """The centre of the box, in fractions of the picture."""
        return Spot((self.box.x_min + self.box.x_max) / 2, (self.box.y_min + self.box.y_max) / 2)


def arrange(random: Random, count: int, picture: tuple[int, int]) -> tuple[Shape, ...]:
    """Return ``count`` random shapes in a ``picture`` of (width, height) pixels, ordered from left to right.

    Boxes do not overlap, and centres are at least 0.12 widths apart. No two shapes share both colour and kind.
    """
    names = random.sample([(colour, kind) for colour in COLOURS for kind in KINDS], count)
    shapes: list[Shape] = []
    while len(shapes) < count:
        shape = _draw_shape(random, *names[len(shapes)], picture)
        # All shapes are drawn again if one overlaps, so that no position is more likely than another.
        shapes = [*shapes, shape] if all(_are_clear(shape, other) for other in shapes) else []
    return tuple(sorted(shapes, key=lambda shape: shape.centre.x))


def paint(random: Random, shapes: Sequence[Shape], ground: str, picture: tuple[int, int]) -> Image.Image:
    """Return the RGB picture of the shapes on a ``ground``, antialiased. Each colour differs randomly by up to 7."""
    width, height = (side * _SUPERSAMPLING for side in picture)
    image = Image.new("RGB", (width, height), _tint(random, GROUNDS[ground]))
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        left, top, right, bottom = (side * part for side, part in zip((width, height) * 2, shape.box, strict=True))
        colour = _tint(random, COLOURS[shape.colour])
        if shape.kind == "circle":
            pen.ellipse((left, top, right, bottom), fill=colour)
        elif shape.kind == "square":
            pen.rectangle((left, top, right, bottom), fill=colour)
        else:
            pen.polygon(((left, bottom), ((left + right) / 2, top), (right, bottom)), fill=colour)
    return image.reduce(_SUPERSAMPLING)


def _draw_shape(random: Random, colour: str, kind: str, picture: tuple[int, int]) -> Shape:
    size = random.choice(SIZES)
    diameter = random.uniform(*_DIAMETERS[size]) * math.sqrt(picture[0] * picture[1])
    width, height = (diameter * extent / side for extent, side in zip(_EXTENTS[kind], picture, strict=True))
    band = random.choice(list(BANDS))
    above, below = BANDS[band]
    x = random.uniform(width / 2 + _EDGE, 1 - width / 2 - _EDGE)
    y = random.uniform(max(above, height / 2 + _EDGE), min(below, 1 - height / 2 - _EDGE))
    return Shape(size, colour, kind, band, Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))


def _are_clear(shape: Shape, other: Shape) -> bool:
    one, two = shape.box, other.box
    aside = one.x_max + _GAP <= two.x_min or two.x_max + _GAP <= one.x_min
    above = one.y_max + _GAP <= two.y_min or two.y_max + _GAP <= one.y_min
    return (aside or above) and abs(shape.centre.x - other.centre.x) >= _STEP


def _tint(random: Random, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, part + random.randint(-_JITTER, _JITTER))) for part in colour)
    return red, green, blue
