"""Boxes for YOLO: a folder of pictures, a folder of labels with the same names, and data.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ....images.prefetch import Fetch
from ...reader import literal
from ..names import key_name
from ..pictures.notes import Note, Problems
from ..targets import new_folder
from ..wide import Selection
from .placing import DEFAULT_LAYOUT, LayoutOptions, place, with_answers

# Digits after the point: far below a pixel of the largest picture.
DIGITS = 6
SAME_BOX = Note("has the same box twice for one class: one of them is left out, as in YOLO's own reader")
NO_AREA = "has a box without an area, which is left out"


def detect_prompts(selection: Selection, name: str) -> list[str]:
    """Return the prompts of the selected detections, sorted: the classes of the export ``name``.

    Raises:
        ValueError: if the selection has no detection.
    """
    found = selection.dataset.tuples(
        f"SELECT DISTINCT prompt FROM {selection.rows} WHERE task = {literal('detect')} ORDER BY prompt"
    )
    if not found:
        raise ValueError(f"none of these rows is a detection, and {name} needs boxes: choose another format or --where")
    return [prompt for (prompt,) in found]


def to_yolo(selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = DEFAULT_LAYOUT) -> Problems:
    """Write a folder with ``images/SPLIT/``, ``labels/SPLIT/``, ``data.yaml`` and ``classes.txt``.

    A label file has a line ``class x_center y_center width height`` for each box, in fractions of the picture. It is
    empty if no detection found a box. The classes are the prompts of detections, numbered from 0 in sorted order.

    Raises:
        ValueError: if the selection has no detection, or a prompt has a line break.
    """
    prompts, problems = detect_prompts(selection, "yolo"), Problems()
    if broken := [prompt for prompt in prompts if len(prompt.splitlines()) != 1]:
        raise ValueError(f"the prompt {broken[0]!r} has a line break, which no class of yolo can have: leave it out")
    classes = {prompt: number for number, prompt in enumerate(prompts)}
    with new_folder(destination) as folder:
        with folder.create("data.yaml") as file:
            file.write(_data_yaml(options, prompts).encode())
        with folder.create("classes.txt") as file:
            file.write("".join(f"{prompt}\n" for prompt in prompts).encode())
        for row, split, _ in place(with_answers(selection, ("detect",)), folder, fetch, options, problems):
            key = key_name(row["key"])
            lines = list(_lines(row["answers"], classes, problems))
            distinct = list(dict.fromkeys(lines))
            problems[SAME_BOX] += len(distinct) < len(lines)
            with folder.create(f"labels/{split}/{key[:2]}/{key}.txt") as file:
                file.write("".join(distinct).encode())
    return +problems


def _lines(answers: list[dict[str, Any]], classes: dict[str, int], problems: Problems) -> Iterator[str]:
    """Yield the line of each box of a picture. A picture with a box that has no area is counted."""
    flat = False
    for answer in answers:
        for box in answer["objects"] or ():
            width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
            if width <= 0 or height <= 0:
                flat = True
                continue
            center = (box["x_min"] + width / 2, box["y_min"] + height / 2)
            numbers = " ".join(f"{value:.{DIGITS}f}" for value in (*center, width, height))
            yield f"{classes[answer['prompt']]} {numbers}\n"
    problems[NO_AREA] += flat


def _data_yaml(options: LayoutOptions, prompts: list[str]) -> str:
    """Return the content of ``data.yaml``. Each name is written as JSON, which YAML includes."""
    names = options.splits.names
    lines = [f"{name}: images/{name}" for name in names]
    # ultralytics refuses a file without these two.
    lines += [f"{name}: images/{names[0]}" for name in ("train", "val") if name not in names]
    lines += [f"nc: {len(prompts)}", "names:"]
    lines += [f"  {number}: {json.dumps(prompt)}" for number, prompt in enumerate(prompts)]
    return "\n".join(lines) + "\n"
