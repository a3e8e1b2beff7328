"""Boxes for FiftyOne: a folder that its type FiftyOneImageDetectionDataset imports."""

from __future__ import annotations

import posixpath
from typing import Any

from ....images.prefetch import Fetch
from ....images.refetch import relocate
from ....io.uris import path_of
from ..pictures.notes import Problems
from ..targets import new_folder
from ..wide import Selection
from .placing import DEFAULT_LAYOUT, LayoutOptions, is_local_file, json_bytes, place, with_answers
from .yolo import detect_prompts

IMAGES = "data"
NO_FILE = "is no file on this disk, so FiftyOne can't open it: export with --copy"


def to_fiftyone(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = DEFAULT_LAYOUT
) -> Problems:
    """Write a folder with ``data/SPLIT/`` and ``labels.json``, with ``classes`` and the boxes of each picture.

    A box is ``[x, y, width, height]`` from its top left corner, in fractions of the picture. Its
    ``attributes`` name the model that found it, and the split of its picture if there are several.

    Raises:
        ValueError: if the selection has no detection.
    """
    prompts, problems = detect_prompts(selection, "fiftyone"), Problems()
    with new_folder(destination) as folder, folder.create("labels.json") as labels:
        labels.write(b'{"classes": ' + json_bytes(prompts) + b',\n"labels": {')
        separator = b"\n"
        for row, split, name in place(
            with_answers(selection, ("detect",)), folder, fetch, options, problems, images=IMAGES
        ):
            # The importer knows a picture by its path below data/ without the extension, or by its absolute path.
            known = posixpath.splitext(posixpath.relpath(name, IMAGES))[0]
            if options.along == "no":
                if not is_local_file(row["uri"]):
                    problems[NO_FILE] += 1
                    continue
                known = path_of(relocate(row["uri"], None, None).uri)
            boxes = [
                _box(answer, box, split, several=len(options.splits.names) > 1)
                for answer in row["answers"]
                for box in answer["objects"] or ()
            ]
            labels.write(separator + json_bytes(known) + b": " + json_bytes(boxes))
            separator = b",\n"
        labels.write(b"\n}}\n")
    return +problems


def _box(answer: dict[str, Any], box: dict[str, float], split: str, *, several: bool) -> dict[str, Any]:
    corner = [box["x_min"], box["y_min"], box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]]
    attributes = {"model": answer["model"], **({"split": split} if several else {})}
    return {"label": answer["prompt"], "bounding_box": corner, "attributes": attributes}
