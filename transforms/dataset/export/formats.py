"""The export formats: sidecar, imagefolder, webdataset, coco and jsonl, and the table of all formats.

To add a format, write a function of type ``Format`` in ``layouts`` and add it to ``FORMATS``: ``moondream-beam export
--to`` offers every name there. If the format has no place for some kinds of tasks, extend ``ONLY_TASKS``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from ...images.formats import FORMATS as FORMATS_READ
from ...images.formats import extension_of
from ...images.prefetch import Fetch
from ..reader import literal
from .layouts.conversations import to_llava, to_messages
from .layouts.fiftyone import to_fiftyone
from .layouts.labelstudio import to_labelstudio
from .layouts.placing import LayoutOptions
from .layouts.sidecar import to_kohya, to_sidecar
from .layouts.yolo import to_yolo
from .names import key_name, rename_fields, rename_reserved
from .pictures.convert import READABLE, PictureFile, Wanted
from .pictures.fetched import BYTE_RANGE, with_pictures
from .pictures.notes import Note, Problems, count_changes
from .targets import new_file, new_folder
from .texts import text_task
from .wide import Selection, TaskColumn

# Limits of one tar file. Training tools read a tar file from front to back and shuffle whole files.
MAX_TAR_PICTURES, MAX_TAR_BYTES = 10_000, 1 << 30
# For formats whose readers know many file formats, and an EXIF orientation or the note ``TURNED``.
UNCHANGED_PICTURES = LayoutOptions(wanted=Wanted())
# Pictures of each type at the start of an export that fetches them, where some may be gone.
FIRST_COPIES = 3
OTHER_FORMAT = Note("has the extension of all pictures in the tars, not of its own format; its content is unchanged")
TURNED = Note(
    "has an EXIF orientation, and webdataset does not turn it: apply PIL.ImageOps.exif_transpose, then use its boxes"
)
FIELDS_RENAMED = Note("has fields with a number after their names: in imagefolder, `datasets` reserves file_name")

# Writes the selection to a destination, a new file or folder as returned by ``targets.resolve_destination``.
Format = Callable[..., Problems]


def to_jsonl(selection: Selection, destination: str, fetch: Fetch) -> Problems:
    """Write a file with one JSON object on a line for each picture: the wide table of ``Selection``."""
    columns = selection.task_columns()
    with new_file(destination) as file:
        for row in selection.wide(columns, first=selection.first_keys(columns)):
            file.write(_json(row) + "\n")
    return Problems()


def to_imagefolder(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = UNCHANGED_PICTURES
) -> Problems:
    """Write a folder for ``datasets``: ``images/ab/KEY.jpg``, and ``metadata.jsonl`` with each picture's ``file_name``.

    The pictures are named by their keys, because ``datasets`` makes splits of file names that contain test or train.
    Other columns whose names ``datasets`` reserves get a number after their names.
    """
    columns, problems = selection.task_columns(), Problems()
    names = rename_reserved(selection.wide_columns(columns))
    with new_folder(destination) as folder, folder.create("metadata.jsonl") as metadata:
        for row, picture in _pictures(selection, columns, fetch, problems, options.wanted):
            key = key_name(row["key"])
            name = f"images/{key[:2]}/{key}.{picture.extension}"
            with folder.create(name) as file:
                file.write(picture.content)
            fields = rename_fields(list(row.values()))
            problems[FIELDS_RENAMED] += fields != list(row.values())
            described = {names.get(column, column): value for column, value in zip(row, fields, strict=True)}
            metadata.write((_json({"file_name": name, **described}) + "\n").encode())
            problems.update(
                Note(f"has its column {old} as {new}: `datasets` reserves {old}") for old, new in names.items()
            )
    return +problems


def to_webdataset(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = UNCHANGED_PICTURES
) -> Problems:
    """Write a folder of tar files, ``000000.tar`` and so on, with ``KEY.jpg`` and ``KEY.json`` for each picture.

    All pictures have one extension, because ``datasets`` takes the columns of all samples from the first five: that of
    their format, or ``jpg`` if the formats differ.
    """
    columns, problems = selection.task_columns(), Problems()
    chosen = options.wanted.format
    extension = extension_of(chosen) if chosen else _common_extension(selection)
    with new_folder(destination) as folder, ExitStack() as stack:
        tar, tars, pictures, size = None, 0, 0, 0
        for row, picture in _pictures(selection, columns, fetch, problems, options.wanted):
            if tar is None or pictures % MAX_TAR_PICTURES == 0 or size >= MAX_TAR_BYTES:
                stack.close()
                file = stack.enter_context(folder.create(f"{tars:06d}.tar"))
                tar, size = stack.enter_context(tarfile.open(fileobj=file, mode="w|")), 0
                tars += 1
            pictures, size = pictures + 1, size + len(picture.content)
            extension = extension or picture.extension
            problems[OTHER_FORMAT] += picture.extension != extension
            problems[TURNED] += picture.turned
            key = key_name(row["key"])
            _add(tar, f"{key}.{extension}", picture.content)
            _add(tar, f"{key}.json", _json(row).encode())
    return +problems


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


def only_tasks(name: str, selection: Selection) -> tuple[str, ...]:
    """Return the kinds of tasks whose answers the format exports; an empty tuple if the format exports all answers."""
    return (text_task(selection),) if name in TEXTS else ONLY_TASKS.get(name, ())


FORMATS: dict[str, Format] = {
    "sidecar": to_sidecar,
    "imagefolder": to_imagefolder,
    "webdataset": to_webdataset,
    "coco": to_coco,
    "jsonl": to_jsonl,
    "llava": to_llava,
    "messages": to_messages,
    "yolo": to_yolo,
    "labelstudio": to_labelstudio,
    "fiftyone": to_fiftyone,
    "kohya": to_kohya,
}
# Formats whose functions have ``texts``; all of ``LayoutOptions`` as ``options``; and only ``wanted`` of these.
TEXTS = ("sidecar", "kohya")
LAYOUTS = ("llava", "messages", "yolo", "labelstudio", "fiftyone")
RESIZABLE = ("imagefolder", "webdataset", *LAYOUTS)
# Formats that have a place for some kinds of tasks only. ``only_tasks`` gives those of ``TEXTS``.
ONLY_TASKS = {
    "coco": ("detect",),
    "llava": ("caption", "query"),
    "messages": ("caption", "query"),
    "yolo": ("detect",),
    "fiftyone": ("detect",),
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
                # pycocotools draws only annotations that have this field.
                "segmentation": [],
                "iscrowd": 0,
            }


def _write_list(file: Any, values: Iterator[dict[str, Any]]) -> None:
    for number, value in enumerate(values):
        file.write(("," if number else "") + _json(value) + "\n")


def _pictures(
    selection: Selection, columns: Sequence[TaskColumn], fetch: Fetch, problems: Problems, wanted: Wanted
) -> Iterator[tuple[dict[str, Any], PictureFile]]:
    """Yield the rows whose pictures can be fetched, with their files; count the problems of the others."""
    first = selection.first_keys(columns, FIRST_COPIES)
    for packed in with_pictures(selection.wide(columns, BYTE_RANGE, first), fetch, len(first), wanted):
        if packed.file is None:
            problems[packed.problem] += 1
        else:
            count_changes(problems, packed.file)
            yield packed.row, packed.file


def _common_extension(selection: Selection) -> str:
    """Return the extension for all pictures, by the extensions of their names; empty if no name has a known one."""
    names = {extension[1:]: name for name, extensions in FORMATS_READ.items() for extension in extensions}
    known = ", ".join(map(literal, names))
    extension = "lower(regexp_extract(filename, '[.]([^./]*)$', 1))"
    found = selection.dataset.tuples(
        f"SELECT DISTINCT {extension} FROM {selection.rows} WHERE {extension} IN ({known})"
    )
    formats = {names[extension] for (extension,) in found}
    if not formats:
        return ""
    (name, *others) = formats
    return extension_of(name if not others and name in READABLE else "JPEG")


def _add(tar: tarfile.TarFile, member: str, content: bytes) -> None:
    info = tarfile.TarInfo(member)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
