"""Measure an annotator on scenes that training never saw: ``python -m tiny.evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moondream_beam.models.moondream.annotator import Moondream
from moondream_beam.models.tasks import (
    Annotator,
    Answer,
    Box,
    Caption,
    Detect,
    Fault,
    Point,
    Query,
    Request,
    Sampling,
    Spot,
    Task,
)
from moondream_beam.models.tiny.scenes import EVALUATION_SEEDS, Scene, draw

GREEDY = Sampling(temperature=0.0)


class Exam(NamedTuple):
    """One task about a scene, under which heading it counts, and what is right: a text, or the boxes of the objects."""

    heading: str
    scene: Scene
    task: Task
    right: str | tuple[Box, ...]


@dataclass
class Tally:
    """How much of a heading is right: ``right`` points of ``possible`` ones."""

    right: float = 0.0
    possible: int = 0

    def add(self, right: float, possible: int) -> None:
        """Count some more points."""
        self.right += right
        self.possible += possible

    @property
    def share(self) -> float:
        """The part that is right, in [0, 1]."""
        return self.right / self.possible if self.possible else 0.0


def evaluate(annotator: Annotator, scenes: Iterable[Scene], sampling: Sampling = GREEDY) -> dict[str, Tally]:
    """Put every exam of the scenes to the annotator.

    Texts count when right word for word. Boxes count by their overlap (intersection over union) with the object that
    they match best, out of the objects there are, or found if that is more: what is missed and what is invented both
    cost a full object. Points count when they lie within an object of their own, once out of the points given and once
    out of the objects there are.
    """
    exams = {str(number): exam for number, exam in enumerate(exam for scene in scenes for exam in set_exams(scene))}
    tallies: dict[str, Tally] = {}
    requests = (Request(id, exam.scene.image, exam.task, sampling) for id, exam in exams.items())
    for outcome in annotator.answer(requests):
        for heading, right, possible in _mark(exams[outcome.id], outcome.result):
            tallies.setdefault(heading, Tally()).add(right, possible)
    return tallies


def set_exams(scene: Scene) -> Iterator[Exam]:
    """All that is asked of a scene: captions, questions, things to detect and to point at."""
    for length, caption in scene.captions.items():
        yield Exam(f"captions, {length}", scene, Caption(length), caption)
    for question, answer in scene.questions:
        yield Exam("answers", scene, Query(question), answer)
    for name, shapes in scene.things:
        boxes = tuple(shape.box for shape in shapes)
        yield Exam("boxes, mean overlap", scene, Detect(name), boxes)
        yield Exam("points inside", scene, Point(name), boxes)


def overlap(one: Box, two: Box) -> float:
    """The intersection of two boxes over their union, in [0, 1]."""
    width = min(one.x_max, two.x_max) - max(one.x_min, two.x_min)
    height = min(one.y_max, two.y_max) - max(one.y_min, two.y_min)
    common = max(0.0, width) * max(0.0, height)
    return common / (_area(one) + _area(two) - common) if common else 0.0


def _mark(exam: Exam, result: Answer | Fault) -> Iterator[tuple[str, float, int]]:
    """What an answer adds to which headings: points of right ones and of possible ones."""
    if isinstance(exam.right, str):
        yield exam.heading, float(isinstance(result, Answer) and result.text == exam.right), 1
        return
    found: Sequence[Box | Spot] = [] if isinstance(result, Fault) else [*(result.objects or ()), *(result.points or ())]
    fit = _match(found, exam.right)
    if isinstance(exam.task, Detect):
        yield exam.heading, fit, max(len(found), len(exam.right))
    else:
        yield exam.heading, fit, len(found)
        yield "objects pointed at", fit, len(exam.right)


def _match(found: Sequence[Box | Spot], right: Sequence[Box]) -> float:
    """The sum of fits, best first, each place and each object once."""
    fits = sorted(((_fit(one, box), i, j) for i, one in enumerate(found) for j, box in enumerate(right)), reverse=True)
    total, taken, matched = 0.0, set[int](), set[int]()
    for fit, i, j in fits:
        if i not in taken and j not in matched:
            total += fit
            taken.add(i)
            matched.add(j)
    return total


def _fit(found: Box | Spot, box: Box) -> float:
    if isinstance(found, Box):
        return overlap(found, box)
    return float(box.x_min <= found.x <= box.x_max and box.y_min <= found.y <= box.y_max)


def _area(box: Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def main() -> None:
    """Print the share of what is right under each heading."""
    parser = argparse.ArgumentParser(description="Measure the tiny model on scenes that its training never saw.")
    parser.add_argument("--model", default="tiny", help="tiny, or a folder of such weights")
    parser.add_argument("--scenes", type=int, default=len(EVALUATION_SEEDS), help="how many of the 500 scenes")
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    scenes = map(draw, EVALUATION_SEEDS[: options.scenes])
    tallies = evaluate(Moondream(options.model), scenes, Sampling(temperature=options.temperature))
    for heading, tally in sorted(tallies.items()):
        print(f"{heading:<20} {tally.share:7.2%} of {tally.possible}")


if __name__ == "__main__":
    main()
