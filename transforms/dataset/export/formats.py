"""The export formats: sidecar, imagefolder, webdataset, coco and jsonl.

To add a format, write a function of type ``Format`` here and add it to ``FORMATS``: ``moondream-beam export --to``
offers every name there. If the format takes only one kind of task, extend ``only_task``.
"""

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
from ...io.uris import unescape_non_utf8, unescape_path
from .names import is_named_like, key_name, relative_name
from .pictures import BYTE_RANGE, Packed, with_pictures
from .targets import new_file, new_folder, write_if_absent
from .wide import Selection, name_below

# Limits of one tar file. Training tools read a tar file from front to back and shuffle whole files.
MAX_TAR_PICTURES, MAX_TAR_BYTES = 10_000, 1 << 30
ANOTHER_TEXT = "has a text file with other content, which was kept: move that file away and export again"
NO_TEXT = "has no text"
CANT_SHARE_NAME = (
    "has a name that its text can't have: the text file is named differently; to write the texts beside the pictures, "
    "export to the folder that holds the pictures"
)
SHARES_NAME = "shares its name with another picture: the name of its text file contains its key"

# Numbers of pictures by the reason why they, or their names, are missing in the export.
Problems = Counter[str]
# Writes the selection to a destination, a new file or folder as returned by ``targets.resolve_destination``.
Format = Callable[[Selection, str, Fetch], Problems]


def to_jsonl(selection: Selection, destination: str, fetch: Fetch) -> Problems:
    """Write a file with one JSON object on a line for each picture: the wide table of ``Selection``."""
    columns = selection.task_columns()
    with new_file(destination) as file:
        for row in selection.wide(columns):
            file.write(_json(row) + "\n")
    return Problems()


def to_imagefolder(selection: Selection, destination: str, fetch: Fetch) -> Problems:
    """Write a folder for ``datasets``: ``images/ab/KEY.jpg``, and ``metadata.jsonl`` with each picture's ``file_name``.

    The pictures are named by their keys, because ``datasets`` makes splits of file names that contain test or train.
    """
    columns, problems = selection.task_columns(), Problems()
    with new_folder(destination) as folder, folder.create("metadata.jsonl") as metadata:
        for packed in _complete(with_pictures(selection.wide(columns, BYTE_RANGE), fetch), problems):
            key = key_name(packed.row["key"])
            name = f"images/{key[:2]}/{key}.{packed.extension}"
            with folder.create(name) as file:
                file.write(packed.content)
            metadata.write((_json({"file_name": name, **packed.row}) + "\n").encode())
    return problems


def to_webdataset(selection: Selection, destination: str, fetch: Fetch) -> Problems:
    """Write a folder of tar files, ``000000.tar`` and so on, with ``KEY.jpg`` and ``KEY.json`` for each picture.

    A picture in another file format has that format's extension.
    """
    columns, problems = selection.task_columns(), Problems()
    with new_folder(destination) as folder, ExitStack() as stack:
        tar, tars, pictures, size = None, 0, 0, 0
        for packed in _complete(with_pictures(selection.wide(columns, BYTE_RANGE), fetch), problems):
            if tar is None or pictures % MAX_TAR_PICTURES == 0 or size >= MAX_TAR_BYTES:
                stack.close()
                file = stack.enter_context(folder.create(f"{tars:06d}.tar"))
                tar, size = stack.enter_context(tarfile.open(fileobj=file, mode="w|")), 0
                tars += 1
            pictures, size = pictures + 1, size + len(packed.content)
            key = key_name(packed.row["key"])
            _add(tar, f"{key}.{packed.extension}", packed.content)
            _add(tar, f"{key}.json", _json(packed.row).encode())
    return problems


def to_coco(selection: Selection, destination: str, fetch: Fetch) -> Problems:
    """Write a JSON file in the COCO format, with boxes in pixels. The categories are the prompts of detections.

    Pictures with a detection but no box are included.

    Raises:
        ValueError: if the selection has no detection.
    """
    prompts = [column.prompt for column in selection.task_columns() if column.task == "detect"]
    if not prompts:
        raise ValueError("none of these rows is a detection, and coco needs boxes: choose another format or --where")
    categories = {prompt: number for number, prompt in enumerate(prompts, 1)}
    with new_file(destination) as file:
        listed = [{"id": number, "name": prompt} for prompt, number in categories.items()]
        file.write(f'{{"info": {{"description": "moondream-beam"}},\n"categories": {_json(listed)},\n"images": [\n')
        _write_list(file, _coco_images(selection))
        file.write('],\n"annotations": [\n')
        _write_list(file, _coco_boxes(selection, categories))
        file.write("]}\n")
    return Problems()


def to_sidecar(selection: Selection, destination: str, fetch: Fetch) -> Problems:
    """Write a text file for each picture, with the picture's name and one caption on each line.

    The text of a picture that lies below ``destination`` lies beside the picture.

    If the selection has no captions, answers to queries are written instead. Existing files are kept. Pictures whose
    names differ only in extension or case have their key in the name of the text file.
    """
    problems = Problems()
    for row in selection.dataset.rows(_texts(selection, destination)):
        if not row["texts"]:
            problems[NO_TEXT] += 1
            continue
        suffix = f"-{key_name(row['key'])}.txt" if row["shares"] else ".txt"
        problems[SHARES_NAME] += row["shares"]
        text = "\n".join(row["texts"]) + "\n"
        filename = _name_on_disk(destination, row["filename"])
        path = relative_name(filename, suffix)
        problems[CANT_SHARE_NAME] += bool(filename) and not row["shares"] and not is_named_like(path, filename)
        problems[ANOTHER_TEXT] += not write_if_absent(destination, path.as_posix(), text)
    return +problems


def only_task(name: str, selection: Selection) -> str | None:
    """Return the kind of task whose answers the format exports; None if the format exports all answers."""
    if name == "sidecar":
        return _text_task(selection)
    return "detect" if name == "coco" else None


def _text_task(selection: Selection) -> str:
    return "caption" if selection.answers_to["caption"] else "query"


def _name_on_disk(folder: str, filename: str) -> str:
    """Return the picture's name with its original bytes.

    A row shows the bytes of a name that is not valid UTF-8 as escapes. They are undone if the folder has such a file.
    """
    written = os.path.join(folder, filename)
    return filename if unescape_path(written) == written else unescape_non_utf8(filename)


def _texts(selection: Selection, destination: str) -> str:
    """Return an SQL query for ``key``, ``filename``, ``texts`` and ``shares`` of each picture.

    ``texts`` is a list of its captions, or of its answers if the selection has no captions. ``shares`` is true if
    another picture's name differs only in extension or case.
    """
    return f"""
        SELECT key, filename, texts,
            count(*) OVER (PARTITION BY lower(regexp_replace(filename, '\\.[^./]*$', ''))) > 1 AS shares
        FROM (
            SELECT key, {name_below(destination)} AS filename,
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


def _complete(pictures: Iterator[Packed], problems: Problems) -> Iterator[Packed]:
    """Yield the pictures that have their content; count the problems of the others."""
    for packed in pictures:
        if packed.problem:
            problems[packed.problem] += 1
        else:
            yield packed


def _add(tar: tarfile.TarFile, member: str, content: bytes) -> None:
    info = tarfile.TarInfo(member)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
