"""The export formats: imagefolder, webdataset and jsonl, and the table of all formats.

To add a format, write a function of type ``Format`` in ``layouts`` and add it to ``FORMATS``: ``moondream-beam export
--to`` offers every name there. If the format has no place for some kinds of tasks, extend ``ONLY_TASKS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ...images.formats import FORMATS as FORMATS_READ
from ...images.formats import extension_of
from ...images.prefetch import Fetch
from ..reader import literal
from .layouts.coco import to_coco
from .layouts.conversations import to_llava, to_messages
from .layouts.fiftyone import to_fiftyone
from .layouts.labelstudio import to_labelstudio
from .layouts.placing import LayoutOptions, choose_split, json_text
from .layouts.sidecar import to_kohya, to_sidecar
from .layouts.splits import ONE_SPLIT, Splits, split_files
from .layouts.yolo import to_yolo
from .names import key_name, rename_fields, rename_reserved
from .pictures.convert import READABLE, PictureFile, Wanted
from .pictures.fetched import BYTE_RANGE, with_pictures
from .pictures.notes import Note, Problems, count_changes
from .pictures.tars import Tars
from .targets import new_file, new_folder
from .texts import text_task
from .wide import Selection, TaskColumn

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


def to_jsonl(selection: Selection, destination: str, fetch: Fetch, splits: Splits = ONE_SPLIT) -> Problems:
    """Write a file with one JSON object on a line for each picture: the wide table of ``Selection``.

    If there are several splits, each has a file; see ``split_files``.
    """
    columns, problems = selection.task_columns(), Problems()
    with ExitStack() as stack:
        files = {name: stack.enter_context(new_file(path)) for name, path in split_files(destination, splits).items()}
        for picture, line in selection.wide_lines(columns, selection.first_keys(columns, splits=splits)):
            files[choose_split(splits, picture, problems)].write(line)
    return +problems


def to_imagefolder(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = UNCHANGED_PICTURES
) -> Problems:
    """Write a folder for ``datasets``: ``images/ab/KEY.jpg``, and ``metadata.jsonl`` with each picture's ``file_name``.

    The pictures are named by their keys, because ``datasets`` makes splits of file names that contain test or train.
    Other columns whose names ``datasets`` reserves get a number after their names. If there are several splits, each
    has a folder with these files, and ``README.md`` names the folders: ``datasets`` knows some names of splits only.
    """
    columns, problems = selection.task_columns(), Problems()
    names = rename_reserved(selection.wide_columns(columns))
    starts = dict.fromkeys(options.splits.names, "")
    with new_folder(destination) as folder, ExitStack() as stack:
        if len(starts) > 1:
            starts = {split: f"{split}/" for split in starts}
            with folder.create("README.md") as card:
                card.write(_card(starts).encode())
        lists = {split: stack.enter_context(folder.create(f"{starts[split]}metadata.jsonl")) for split in starts}
        for row, picture in _pictures(selection, columns, fetch, problems, options):
            key, split = key_name(row["key"]), choose_split(options.splits, row, problems)
            name = f"images/{key[:2]}/{key}.{picture.extension}"
            with folder.create(f"{starts[split]}{name}") as file:
                file.write(picture.content)
            fields = rename_fields(list(row.values()))
            problems[FIELDS_RENAMED] += fields != list(row.values())
            described = {names.get(column, column): value for column, value in zip(row, fields, strict=True)}
            lists[split].write((json_text({"file_name": name, **described}) + "\n").encode())
            problems.update(
                Note(f"has its column {old} as {new}: `datasets` reserves {old}") for old, new in names.items()
            )
    return +problems


def to_webdataset(
    selection: Selection, destination: str, fetch: Fetch, options: LayoutOptions = UNCHANGED_PICTURES
) -> Problems:
    """Write a folder of tar files, ``000000.tar`` and so on, with ``KEY.jpg`` and ``KEY.json`` for each picture.

    If there are several splits, the files of each are ``SPLIT-000000.tar`` and so on.
    All pictures have one extension, because ``datasets`` takes the columns of all samples from the first five: that of
    their format, or ``jpg`` if the formats differ.
    """
    columns, problems = selection.task_columns(), Problems()
    chosen = options.wanted.format
    extension = extension_of(chosen) if chosen else _common_extension(selection)
    splits = options.splits
    with new_folder(destination) as folder, ExitStack() as stack:
        starts = {split: f"{split}-" if len(splits.names) > 1 else "" for split in splits.names}
        tars = {split: stack.enter_context(Tars(folder, start)) for split, start in starts.items()}
        for row, picture in _pictures(selection, columns, fetch, problems, options):
            extension = extension or picture.extension
            problems[OTHER_FORMAT] += picture.extension != extension
            problems[TURNED] += picture.turned
            key = key_name(row["key"])
            members = {f"{key}.{extension}": picture.content, f"{key}.json": json_text(row).encode()}
            tars[choose_split(splits, row, problems)].add(members)
    return +problems


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
# Formats that are one file, or one for each split, and whose functions have ``splits``.
FILES = ("jsonl", "coco")
# Formats that have a place for some kinds of tasks only. ``only_tasks`` gives those of ``TEXTS``.
ONLY_TASKS = {
    "coco": ("detect",),
    "llava": ("caption", "query"),
    "messages": ("caption", "query"),
    "yolo": ("detect",),
    "fiftyone": ("detect",),
}


def _pictures(
    selection: Selection, columns: Sequence[TaskColumn], fetch: Fetch, problems: Problems, options: LayoutOptions
) -> Iterator[tuple[dict[str, Any], PictureFile]]:
    """Yield the rows whose pictures can be fetched, with their files; count the problems of the others."""
    first = selection.first_keys(columns, FIRST_COPIES, options.splits)
    for packed in with_pictures(selection.wide(columns, BYTE_RANGE, first), fetch, len(first), options.wanted):
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


def _card(starts: Mapping[str, str]) -> str:
    """Return a dataset card that names the folder of each split."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, start in starts.items():
        lines += [f"  - split: {split}", f'    path: "{start}**"']
    return "\n".join([*lines, "---", ""])
