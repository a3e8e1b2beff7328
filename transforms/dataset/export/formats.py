"""The shapes: sidecar, imagefolder, webdataset, coco and jsonl."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from ...images.prefetch import Fetch
from ...io.uris import as_named, local_path
from .names import is_named_like, key_name, relative_name
from .pictures import BYTE_RANGE, Packed, with_pictures
from .targets import new_file, new_folder, write_new
from .wide import Selection

# A tar that is read from front to back: as many pictures as others put into one, and not more bytes than that.
TAR_PICTURES, TAR_BYTES = 10_000, 1 << 30
ANOTHER_TEXT = "has another text there already"
NO_TEXT = "has no text"
CANT_SHARE_NAME = "has a name that its text can't have, which is named otherwise"
SHARES_NAME = "shares its name with another: its text has its key in its name"

Left = Counter[str]
# Into a new file or folder, on a disk or in a bucket, as ``targets.place`` gives them.
Format = Callable[[Selection, str, Fetch], Left]


def to_jsonl(selection: Selection, destination: str, fetch: Fetch) -> Left:
    """One JSON object a line, one line a picture, into a file."""
    asked = selection.asked()
    with new_file(destination) as file:
        for row in selection.wide(asked):
            file.write(_json(row) + "\n")
    return Left()


def to_imagefolder(selection: Selection, destination: str, fetch: Fetch) -> Left:
    """Pictures named by their keys, and metadata.jsonl with their ``file_name``.

    Of names as they were ``datasets`` would make splits, where one of them sounds like test or train.
    """
    asked, left = selection.asked(), Left()
    with new_folder(destination) as folder, folder.create("metadata.jsonl") as metadata:
        for packed in _present(with_pictures(selection.wide(asked, BYTE_RANGE), fetch), left):
            key = key_name(packed.row["key"])
            name = f"images/{key[:2]}/{key}.{packed.extension}"
            with folder.create(name) as file:
                file.write(packed.content)
            metadata.write((_json({"file_name": name, **packed.row}) + "\n").encode())
    return left


def to_webdataset(selection: Selection, destination: str, fetch: Fetch) -> Left:
    """Tars of KEY.jpg, or whatever the picture is, each with its KEY.json."""
    asked, left = selection.asked(), Left()
    with new_folder(destination) as folder, ExitStack() as stack:
        tar, tars, pictures, size = None, 0, 0, 0
        for packed in _present(with_pictures(selection.wide(asked, BYTE_RANGE), fetch), left):
            if tar is None or pictures % TAR_PICTURES == 0 or size >= TAR_BYTES:
                stack.close()
                file = stack.enter_context(folder.create(f"{tars:06d}.tar"))
                tar, size = stack.enter_context(tarfile.open(fileobj=file, mode="w|")), 0
                tars += 1
            pictures, size = pictures + 1, size + len(packed.content)
            key = key_name(packed.row["key"])
            _add(tar, f"{key}.{packed.extension}", packed.content)
            _add(tar, f"{key}.json", _json(packed.row).encode())
    return left


def to_coco(selection: Selection, destination: str, fetch: Fetch) -> Left:
    """One JSON file of boxes in pixels; what was looked for are its categories. Pictures without boxes are in it too.

    Raises:
        ValueError: nothing was looked for.
    """
    found = [(task, prompt) for task, prompt, _ in selection.asked() if task == "detect"]
    if not found:
        raise ValueError("none of these rows is a detection, and coco is about boxes: choose another shape")
    categories = {prompt: number for number, (_, prompt) in enumerate(found, 1)}
    with new_file(destination) as file:
        listed = [{"id": number, "name": prompt} for prompt, number in categories.items()]
        file.write(f'{{"info": {{"description": "moondream-beam"}},\n"categories": {_json(listed)},\n"images": [\n')
        _write_list(file, _coco_images(selection))
        file.write('],\n"annotations": [\n')
        _write_list(file, _coco_boxes(selection, categories))
        file.write("]}\n")
    return Left()


def to_sidecar(selection: Selection, destination: str, fetch: Fetch) -> Left:
    """A text file for each picture, named like it, with each of its captions on a line.

    Where the selection has no captions, answers to queries stand in for them.
    """
    left = Left()
    for row in selection.dataset.rows(_texts(selection)):
        if not row["texts"]:
            left[NO_TEXT] += 1
            continue
        suffix = f"-{key_name(row['key'])}.txt" if row["shares"] else ".txt"
        left[SHARES_NAME] += row["shares"]
        text = "\n".join(row["texts"]) + "\n"
        filename = _as_there(destination, row["filename"])
        path = relative_name(filename, suffix)
        left[CANT_SHARE_NAME] += bool(filename) and not row["shares"] and not is_named_like(path, filename)
        left[ANOTHER_TEXT] += not write_new(destination, path.as_posix(), text)
    return +left


def only_task(shape: str, selection: Selection) -> str | None:
    """The one kind of task whose answers a shape takes; None where it takes all."""
    if shape == "sidecar":
        return _text_task(selection)
    return "detect" if shape == "coco" else None


def _text_task(selection: Selection) -> str:
    return "caption" if selection.answers_to["caption"] else "query"


def _as_there(folder: str, filename: str) -> str:
    """A picture's name as the folder has it, where it is no UTF-8 and the row shows its odd bytes as escapes."""
    written = os.path.join(folder, filename)
    return filename if local_path(written) == written else as_named(filename)


def _texts(selection: Selection) -> str:
    """A query of each picture's texts, and whether its name without extension is another's too."""
    return f"""
        SELECT key, filename, texts,
            count(*) OVER (PARTITION BY lower(regexp_replace(filename, '\\.[^./]*$', ''))) > 1 AS shares
        FROM (
            SELECT key, min(filename) AS filename,
                list(trim(regexp_replace(caption, '\\s+', ' ', 'g')) ORDER BY prompt)
                    FILTER (WHERE task = '{_text_task(selection)}' AND trim(caption) != '') AS texts
            FROM {selection.rows} GROUP BY key)
        ORDER BY filename, key
    """


FORMATS: dict[str, Format] = {
    "sidecar": to_sidecar,
    "imagefolder": to_imagefolder,
    "webdataset": to_webdataset,
    "coco": to_coco,
    "jsonl": to_jsonl,
}


def _coco_images(selection: Selection) -> Iterator[dict[str, Any]]:
    query = f"""
        SELECT row_number() OVER (ORDER BY key) AS id, min(filename) AS file_name, any_value(width) AS width,
            any_value(height) AS height, any_value(uri) AS coco_url, key
        FROM {selection.rows} WHERE task = 'detect' GROUP BY key ORDER BY key
    """
    return selection.dataset.rows(query)


def _coco_boxes(selection: Selection, categories: dict[str, int]) -> Iterator[dict[str, Any]]:
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
                "iscrowd": 0,
            }


def _write_list(file: Any, values: Iterator[dict[str, Any]]) -> None:
    for number, value in enumerate(values):
        file.write(("," if number else "") + _json(value) + "\n")


def _present(pictures: Iterator[Packed], left: Left) -> Iterator[Packed]:
    for packed in pictures:
        if packed.problem:
            left[packed.problem] += 1
        else:
            yield packed


def _add(tar: tarfile.TarFile, member: str, content: bytes) -> None:
    info = tarfile.TarInfo(member)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
