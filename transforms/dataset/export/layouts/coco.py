"""Boxes in pixels for COCO's readers: one JSON file, or one for each split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TextIO

from ....images.prefetch import Fetch
from ..pictures.notes import Problems
from ..targets import new_file
from ..wide import Selection
from .placing import choose_split, json_text
from .splits import ONE_SPLIT, Splits, split_files


def to_coco(selection: Selection, destination: str, fetch: Fetch, splits: Splits = ONE_SPLIT) -> Problems:
    """Write a JSON file in the COCO format, with boxes in pixels. The categories are the prompts of detections.

    Pictures with a detection but no box are included. If there are several splits, each has a file with all categories;
    see ``split_files``.

    Raises:
        ValueError: if the selection has no detection.
    """
    prompts = [column.prompt for column in selection.task_columns() if column.task == "detect"]
    if not prompts:
        raise ValueError("none of these rows is a detection, and coco needs boxes: choose another format or --where")
    categories, problems = {prompt: number for number, prompt in enumerate(prompts, 1)}, Problems()
    listed = json_text([{"id": number, "name": prompt} for prompt, number in categories.items()])
    with ExitStack() as stack:
        files = {name: stack.enter_context(new_file(path)) for name, path in split_files(destination, splits).items()}
        for file in files.values():
            file.write(f'{{"info": {{"description": "moondream-beam"}},\n"categories": {listed},\n"images": [\n')
        chosen = _write_images(files, _images(selection), splits, problems)
        for file in files.values():
            file.write('],\n"annotations": [\n')
        _write_boxes(files, _boxes(selection, categories), chosen)
        for file in files.values():
            file.write("]}\n")
    return +problems


def _images(selection: Selection) -> Iterator[dict[str, Any]]:
    query = f"""
        SELECT row_number() OVER (ORDER BY key) AS id, min(filename) AS file_name, any_value(width) AS width,
            any_value(height) AS height, any_value(uri) AS coco_url, key, arg_max(sha256, created_at) AS sha256
        FROM {selection.rows} WHERE task = 'detect' GROUP BY key ORDER BY key
    """
    return selection.dataset.rows(query)


def _boxes(selection: Selection, categories: dict[str, int]) -> Iterator[dict[str, Any]]:
    query = f"""
        SELECT dense_rank() OVER (ORDER BY key) AS image, width, height, prompt, objects
        FROM {selection.rows} WHERE task = 'detect' ORDER BY key, prompt
    """
    number = 0
    for row in selection.dataset.rows(query):
        for box in row["objects"] or ():
            number += 1
            x, y = box["x_min"] * row["width"], box["y_min"] * row["height"]
            width, height = box["x_max"] * row["width"] - x, box["y_max"] * row["height"] - y
            yield {
                "id": number,
                "image_id": row["image"],
                "category_id": categories[row["prompt"]],
                "bbox": [round(side, 2) for side in (x, y, width, height)],
                "area": round(width * height, 2),
                # pycocotools draws only annotations that have this field.
                "segmentation": [],
                "iscrowd": 0,
            }


def _write_images(
    files: Mapping[str, TextIO], images: Iterable[dict[str, Any]], splits: Splits, problems: Problems
) -> list[str]:
    """Write the images to the files of their splits, and return the split of each image in the order of their ids."""
    chosen: list[str] = []
    begun: set[str] = set()
    for image in images:
        split = choose_split(splits, image, problems)
        chosen.append(split)
        del image["sha256"]
        files[split].write(("," if split in begun else "") + json_text(image) + "\n")
        begun.add(split)
    return chosen


def _write_boxes(files: Mapping[str, TextIO], boxes: Iterable[dict[str, Any]], chosen: Sequence[str]) -> None:
    begun: set[str] = set()
    for box in boxes:
        split = chosen[box["image_id"] - 1]
        files[split].write(("," if split in begun else "") + json_text(box) + "\n")
        begun.add(split)
