"""Texts about shapes: captions, questions with one right answer, and names of things to find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from ..tasks import DEFAULT_PROMPT, Length
from .shapes import COLOURS, KINDS, SIZES, Shape

_OTHER_THINGS = ("dog", "cat", "person", "car", "tree", "house", "bird", "chair", "star", "face")
_PLACES = ("in this image", "in the image", "in this picture", "in the picture")
_DESCRIBE = (
    "Describe this image.",
    "Describe the image.",
    "Describe this picture.",
    "Describe the picture.",
    "What is in this image?",
    "What is in this picture?",
    "What is in the picture?",
    "What do you see?",
    "What does this image show?",
)
_LEFT = ("leftmost shape", "shape on the left", "shape on the far left")
_RIGHT = ("rightmost shape", "shape on the right", "shape on the far right")
_NUMBERS = ("No shapes", "One shape", "Two shapes", "Three shapes")


class Named(NamedTuple):
    """A name for shapes. A part that is None fits every shape."""

    size: str | None = None
    colour: str | None = None
    kind: str | None = None

    def fits(self, shape: Shape) -> bool:
        """Return whether each part of the name that is not None equals the shape's."""
        parts = zip(self, (shape.size, shape.colour, shape.kind), strict=True)
        return all(part is None or part == own for part, own in parts)

    @property
    def text(self) -> str:
        """The name in words, such as "large red circle"; "shape" stands for a kind of None."""
        return " ".join(part for part in (self.size, self.colour, self.kind or "shape") if part)


def captions(shapes: Sequence[Shape], ground: str) -> dict[Length, str]:
    """Return the caption of each length for shapes from left to right, as "a red circle and a blue square" (short)."""
    full = [_with_article(Named(shape.size, shape.colour, shape.kind).text) for shape in shapes]
    placed = [f"{name} {shape.band}" for name, shape in zip(full, shapes, strict=True)]
    return {
        "short": _join([_with_article(Named(None, shape.colour, shape.kind).text) for shape in shapes]),
        "normal": f"{_join(full)} on a {ground} background",
        "long": f"{_NUMBERS[len(shapes)]} on a {ground} background. From left to right: {_join(placed)}.",
    }


def questions(random: Random, shapes: Sequence[Shape], ground: str) -> tuple[tuple[str, str], ...]:
    """Return random questions about the shapes, each with its only right answer."""
    describe = DEFAULT_PROMPT if random.random() < 0.3 else random.choice(_DESCRIBE)
    background = random.choice(
        ("What colour is the background?", "What is the colour of the background?", "What is the background colour?")
    )
    asked = [
        (describe, captions(shapes, ground)["normal"]),
        (background, ground),
        *(ask(random, shapes) for ask in (_colour, _kind, _size, _band, _count, _count, _exists, _exists)),
    ]
    if len(shapes) > 1:
        asked.append(_side(random, shapes))
    return tuple((_vary_spelling(random, question), answer) for question, answer in asked)


def things(random: Random, shapes: Sequence[Shape]) -> tuple[tuple[str, tuple[Shape, ...]], ...]:
    """Return names to detect or point at, each with the shapes that it fits from left to right; some fit none."""
    own = random.choice(shapes)
    names = [
        Named(),
        Named(kind=random.choice(KINDS)),
        Named(colour=own.colour),
        Named(size=random.choice(SIZES), kind=random.choice((None, own.kind))),
        Named(colour=own.colour, kind=own.kind),
        Named(own.size, own.colour, own.kind),
        _absent(random, shapes),
    ]
    found = [(_vary_number(random, name.text), tuple(filter(name.fits, shapes))) for name in names]
    found.append((_vary_number(random, random.choice(_OTHER_THINGS)), ()))
    return tuple(found)


def _colour(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    name, shape = _only(random, shapes, lambda s: (Named(s.size), Named(kind=s.kind), Named(s.size, None, s.kind)))
    asks = (f"What colour is the {name}?", f"What is the colour of the {name}?", f"Which colour is the {name}?")
    return random.choice(asks), shape.colour


def _kind(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    name, shape = _only(random, shapes, lambda s: (Named(s.size), Named(colour=s.colour), Named(s.size, s.colour)))
    one = name.removesuffix(" shape") + " one" if name.endswith(" shape") else name
    asks = [f"What shape is the {one}?", f"Which shape is the {one}?"]
    if name.endswith(" shape") and name.split()[0] in COLOURS:
        asks += [f"What shape is {name.split()[0]}?", f"Which shape is {name.split()[0]}?"]
    return random.choice(asks), shape.kind


def _size(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    name, shape = _only(random, shapes, _names_without_size)
    asks = (f"Is the {name} large or small?", f"Is the {name} small or large?", f"What size is the {name}?")
    return random.choice((*asks, f"How big is the {name}?")), shape.size


def _band(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    name, shape = _only(random, shapes, _names_without_size)
    return f"Where is the {name}?", shape.band


def _count(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    if random.random() < 0.05:
        name, count = random.choice(_OTHER_THINGS), 0
    else:
        kind, colour, size = random.choice(KINDS), random.choice((*COLOURS, shapes[0].colour)), random.choice(SIZES)
        named = random.choice((Named(), Named(kind=kind), Named(kind=kind), Named(colour=colour), Named(size)))
        name, count = named.text, sum(map(named.fits, shapes))
    many, place = _plural(name), random.choice(_PLACES)
    asks = (f"How many {many} are there?", f"How many {many} do you see?", f"How many {many} are {place}?")
    return random.choice((*asks, f"Count the {many}.")), str(count)


def _exists(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    own = random.choice(shapes)
    if random.random() < 0.5:
        parts = (Named(own.size, own.colour, own.kind), Named(None, own.colour, own.kind), Named(colour=own.colour))
        name, answer = random.choice((*parts, Named(kind=own.kind), Named(own.size, None, own.kind))).text, "yes"
    else:
        absent = _absent(random, shapes).text
        name, answer = random.choice(_OTHER_THINGS) if random.random() < 0.1 else absent, "no"
    thing, place = _with_article(name), random.choice(_PLACES)
    return random.choice((f"Is there {thing}?", f"Is there {thing} {place}?", f"Do you see {thing}?")), answer


def _side(random: Random, shapes: Sequence[Shape]) -> tuple[str, str]:
    sides = ((shapes[0], "left", "leftmost"), (shapes[-1], "right", "rightmost"))
    shape, side, utmost = random.choice(sides)
    name = _with_article(Named(None, shape.colour, shape.kind).text)
    asks = ((f"Which shape is {utmost}?", shape.kind), (f"Which shape is on the {side}?", shape.kind))
    return random.choice((*asks, (f"What is on the {side}?", name), (f"What is on the far {side}?", name)))


def _only(random: Random, shapes: Sequence[Shape], names: Callable[[Shape], tuple[Named, ...]]) -> tuple[str, Shape]:
    """Return a random name that fits exactly one of the shapes, and that shape."""
    found = [(name.text, s) for s in shapes for name in names(s) if sum(map(name.fits, shapes)) == 1]
    if len(shapes) > 1:
        found += [(random.choice(_LEFT), shapes[0]), (random.choice(_RIGHT), shapes[-1])]
    return random.choice(found)


def _names_without_size(shape: Shape) -> tuple[Named, ...]:
    return Named(colour=shape.colour), Named(kind=shape.kind), Named(None, shape.colour, shape.kind)


def _absent(random: Random, shapes: Sequence[Shape]) -> Named:
    """Return a random name that fits none of the shapes. Most of its parts are parts of a shape."""
    own, other = random.choice(shapes), random.choice(shapes)
    near = (
        Named(own.size, own.colour, other.kind),
        Named(own.size, other.colour, own.kind),
        Named(other.size, own.colour, own.kind),
        Named(None, own.colour, random.choice(KINDS)),
        Named(None, random.choice(list(COLOURS)), own.kind),
        Named(random.choice(SIZES), own.colour, own.kind),
        Named(kind=random.choice(KINDS)),
        Named(colour=random.choice(list(COLOURS))),
    )
    none = [name for name in near if not any(map(name.fits, shapes))]
    return random.choice(none) if none else _absent(random, shapes)


def _vary_number(random: Random, name: str) -> str:
    name = _plural(name) if random.random() < 0.3 else name
    return name.capitalize() if random.random() < 0.1 else name


def _plural(name: str) -> str:
    return {"person": "people"}.get(name, f"{name}s")


def _vary_spelling(random: Random, question: str) -> str:
    if random.random() < 0.5:
        question = question.replace("colour", "color")
    if random.random() < 0.15:
        question = question.rstrip("?.")
    return question.lower() if random.random() < 0.2 else question


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
