"""Tasks with predictions for Label Studio: boxes, points and texts that annotators correct."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ....images.prefetch import Fetch
from ....io.uris import LOCAL, scheme_of
from ..pictures.notes import Problems
from ..targets import new_folder
from ..wide import Selection, TaskColumn
from .placing import DEFAULT_LAYOUT, LayoutOptions, Placed, open_lists, place, with_answers

TASKS = ("caption", "query", "detect", "point")
# Label Studio serves files below its document root under this URL, if local file serving is on.
LOCAL_FILES = "/data/local-files/?d="
# Width and height of a drawn point, in percent of the picture's width.
POINT_PERCENT = 0.75
# The task -> the tag of the labelling interface that takes its answers.
TAGS = {"detect": "RectangleLabels", "point": "KeyPointLabels"}


def to_labelstudio(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = DEFAULT_LAYOUT
) -> Problems:
    """Write a folder with ``train.json``, or a file for each split, and the labelling interface ``config.xml``.

    A file is a list of tasks to import, one for each picture, with the answers as one prediction: boxes and points in
    percent of the picture, and each text in a field of its own. Local pictures are named by the URL of Label Studio's
    local file serving, for a document root that is this folder, or the input with ``--no-images``.

    Raises:
        ValueError: if there are more than ``MAX_TASKS`` questions.
    """
    columns, problems = selection.task_columns(), Problems()
    fields = {(column.task, column.prompt): column.column for column in columns}
    with new_folder(destination) as folder:
        with folder.create("config.xml") as file:
            file.write(_config(columns).encode())
        with open_lists(folder, options.splits, "json") as add:
            for placed in place(with_answers(selection, TASKS), folder, fetch, options, problems):
                add(placed.split, _task(placed, options, fields))
    return +problems


def _task(placed: Placed, options: LayoutOptions, fields: dict[tuple[str, str], str]) -> dict[str, Any]:
    row = placed.row
    is_remote = options.along == "no" and scheme_of(row["uri"]) != LOCAL
    image = row["uri"] if is_remote else LOCAL_FILES + quote(placed.name)
    results = [result for answer in row["answers"] for result in _results(row, answer, fields)]
    models = ", ".join(dict.fromkeys(answer["model"] for answer in row["answers"]))
    data = {"image": image, "key": row["key"], "filename": row["filename"]}
    return {"data": data, "predictions": [{"model_version": models, "result": results}]}


def _results(
    row: dict[str, Any], answer: dict[str, Any], fields: dict[tuple[str, str], str]
) -> Iterator[dict[str, Any]]:
    """Yield the regions of an answer, each with an id that is the same in every export."""
    task, prompt = answer["task"], answer["prompt"]
    if task not in TAGS:
        yield _result(fields[task, prompt], "textarea", {"text": [answer["caption"] or ""]}, row, answer, 0)
        return
    kind = TAGS[task].lower()
    for number, shape in enumerate(answer["objects" if task == "detect" else "points"] or ()):
        value = _rectangle(shape) if task == "detect" else _key_point(shape)
        about = {"original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
        yield {**about, **_result(kind, kind, {**value, kind: [prompt]}, row, answer, number)}


def _result(
    name: str, kind: str, value: dict[str, Any], row: dict[str, Any], answer: dict[str, Any], number: int
) -> dict[str, Any]:
    unlike = "\0".join([row["key"], answer["task"], answer["prompt"], str(number)])
    digest = hashlib.sha256(unlike.encode(errors="replace")).hexdigest()[:10]
    return {"id": digest, "from_name": name, "to_name": "image", "type": kind, "value": value}


def _rectangle(box: dict[str, float]) -> dict[str, float]:
    width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
    return {
        "x": 100 * box["x_min"], "y": 100 * box["y_min"], "width": 100 * width, "height": 100 * height, "rotation": 0
    }  # fmt: skip


def _key_point(point: dict[str, float]) -> dict[str, float]:
    return {"x": 100 * point["x"], "y": 100 * point["y"], "width": POINT_PERCENT}


def _config(columns: Sequence[TaskColumn]) -> str:
    """Return the labelling interface: labels for the prompts of boxes and points, and a field for each text."""
    lines = ["<View>", '  <Image name="image" value="$image"/>']
    for task, tag in TAGS.items():
        prompts = [column.prompt for column in columns if column.task == task]
        if prompts:
            lines.append(f'  <{tag} name="{tag.lower()}" toName="image">')
            lines += [f"    <Label value={quoteattr(prompt)}/>" for prompt in prompts]
            lines.append(f"  </{tag}>")
    for task, prompt, name, _ in columns:
        if task not in TAGS:
            lines.append(f"  <Header value={quoteattr(f'{task}: {prompt}')}/>")
            lines.append(f'  <TextArea name={quoteattr(name)} toName="image" rows="3" editable="true"/>')
    return "\n".join([*lines, "</View>", ""])
