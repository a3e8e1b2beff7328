"""Measure an annotator on scenes that training never saw: ``python -m moondream_beam.models.tiny.evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..moondream.engine import Moondream
from ..tasks import Annotator, Answer, Box, Caption, Detect, Point, Query, Request, Sampling, Spot, Task
from .scenes import EVALUATION_SEEDS, Scene, draw

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
    they match best, points when they lie within an object of their own; both out of the objects there are, or found
    if that is more, so that what is missed and what is invented both cost a full object.
    """
    exams = {str(number): exam for number, exam in enumerate(exam for scene in scenes for exam in set_exams(scene))}
    tallies: dict[str, Tally] = {}
    requests = (Request(id, exam.scene.image, exam.task, sampling) for id, exam in exams.items())
    for outcome in annotator.answer(requests):
        exam = exams[outcome.id]
        tally = tallies.setdefault(exam.heading, Tally())
        if isinstance(outcome.result, Answer):
            tally.add(*_mark(outcome.result, exam.right))
        else:
            tally.add(0.0, 1 if isinstance(exam.right, str) else len(exam.right))
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


def _mark(answer: Answer, right: str | tuple[Box, ...]) -> tuple[float, int]:
    if isinstance(right, str):
        return float(answer.text == right), 1
    found: Sequence[Box | Spot] = answer.points if answer.objects is None else answer.objects  # type: ignore[assignment]
    fits = sorted(((_fit(one, box), i, j) for i, one in enumerate(found) for j, box in enumerate(right)), reverse=True)
    total, taken, matched = 0.0, set[int](), set[int]()
    for fit, i, j in fits:
        if i not in taken and j not in matched:
            total += fit
            taken.add(i)
            matched.add(j)
    return total, max(len(found), len(right))


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
