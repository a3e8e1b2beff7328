"""Evaluate an annotator on scenes outside the training data: ``python -m tiny.evaluate``."""

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
    """One task on a scene, the heading of its score, and the right answer: a text, or the boxes of the objects."""

    heading: str
    scene: Scene
    task: Task
    right: str | tuple[Box, ...]


@dataclass
class Tally:
    """The score of a heading: ``right`` of ``possible`` points."""

    right: float = 0.0
    possible: int = 0

    def add(self, right: float, possible: int) -> None:
        """Add points."""
        self.right += right
        self.possible += possible

    @property
    def share(self) -> float:
        """The right share of the possible points, in [0, 1]; 0 if none are possible."""
        return self.right / self.possible if self.possible else 0.0


def evaluate(annotator: Annotator, scenes: Iterable[Scene], sampling: Sampling = GREEDY) -> dict[str, Tally]:
    """Return the score of an annotator on these scenes, by heading.

    A text scores 1 if it equals the right text. A box scores its intersection over union with the object that it
    matches. The possible points are the number of objects or of boxes, whichever is larger. A point scores 1 if it lies
    in an object that no other point matches; it counts once per point and once per object.
    """
    exams = {str(number): exam for number, exam in enumerate(exam for scene in scenes for exam in set_exams(scene))}
    tallies: dict[str, Tally] = {}
    requests = (Request(id, exam.scene.image, exam.task, sampling) for id, exam in exams.items())
    for outcome in annotator.answer(requests):
        for heading, right, possible in _score(exams[outcome.id], outcome.result):
            tallies.setdefault(heading, Tally()).add(right, possible)
    return tallies


def set_exams(scene: Scene) -> Iterator[Exam]:
    """Yield all exams of a scene: captions, questions, and things to detect and to point at."""
    for length, caption in scene.captions.items():
        yield Exam(f"captions, {length}", scene, Caption(length), caption)
    for question, answer in scene.questions:
        yield Exam("answers", scene, Query(question), answer)
    for name, shapes in scene.things:
        boxes = tuple(shape.box for shape in shapes)
        yield Exam("boxes, mean overlap", scene, Detect(name), boxes)
        yield Exam("points inside", scene, Point(name), boxes)


def overlap(one: Box, two: Box) -> float:
    """Return the intersection of two boxes over their union, in [0, 1]."""
    width = min(one.x_max, two.x_max) - max(one.x_min, two.x_min)
    height = min(one.y_max, two.y_max) - max(one.y_min, two.y_min)
    common = max(0.0, width) * max(0.0, height)
    return common / (_area(one) + _area(two) - common) if common else 0.0


def _score(exam: Exam, result: Answer | Fault) -> Iterator[tuple[str, float, int]]:
    """Yield heading, right points and possible points of an answer."""
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
    """Return the sum of fits of a greedy matching: the best fit first, each place and each object once."""
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
    """Print the score of each heading."""
    parser = argparse.ArgumentParser(description="Evaluate the tiny model on scenes outside its training data.")
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
