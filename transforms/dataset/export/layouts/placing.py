"""Put the pictures of an export beside its labels: copied, linked or not at all, divided into splits."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from ....images.prefetch import Fetch
from ....images.refetch import relocate
from ....io.containers.location import container_of
from ....io.uris import LOCAL, path_of, scheme_of
from ...reader import literal
from ..json_columns.values import to_json_value
from ..names import key_name
from ..pictures.convert import UNCHANGED, PictureFile, Wanted
from ..pictures.fetched import BYTE_RANGE, with_pictures
from ..pictures.notes import Note, Problems, count_changes
from ..targets import Folder
from ..wide import ORDER, PICTURE_COLUMNS, Selection
from .splits import ONE_SPLIT, Splits

Along = Literal["copy", "link", "no"]
CANT_LINK = "is no file on this disk, so there is nothing to link to: export with --copy"
CANT_LINK_FORMAT = "has a format that trainers can't read: export with --copy, which converts it"
LINKED_TURNED = Note("has an EXIF orientation: turn it with PIL.ImageOps.exif_transpose, or export with --copy")
IN_CONTAINER = Note("lies in an archive or a Parquet file: unpack it where its name says, or export with --copy")


class LayoutOptions(NamedTuple):
    """How pictures go along with their labels.

    Attributes:
        along: pictures are copied, or are symbolic links, or stay where they are (``no``).
        wanted: what is asked of each copy.
        splits: the splits, each with files of its own.
    """

    along: Along = "copy"
    wanted: Wanted = Wanted(upright=True)
    splits: Splits = ONE_SPLIT


DEFAULT_LAYOUT = LayoutOptions()


class Placed(NamedTuple):
    """A row, its split, and the name of its picture.

    The name is a path below the export; or, if pictures stay where they are, the row's ``filename``.
    """

    row: dict[str, Any]
    split: str
    name: str


def with_answers(selection: Selection, tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a dict of JSON values for each picture with an answer to one of the ``tasks``, such as ``("caption",)``.

    It has ``PICTURE_COLUMNS``, ``BYTE_RANGE``, and ``answers``: a list of dicts with ``task``, ``prompt``, ``caption``,
    ``objects``, ``points`` and ``model``, sorted by task and prompt. The rows are in the order of ``Selection.wide``.
    """
    # All from one row: a picture has two byte ranges if its archive was repacked between two runs.
    columns = ", ".join(f"arg_max({name}, created_at) AS {name}" for name in (*PICTURE_COLUMNS[2:], *BYTE_RANGE))
    fields = ", ".join(f"{name} := {name}" for name in ("task", "prompt", "caption", "objects", "points", "model"))
    query = f"""
        SELECT key, min(filename) AS filename, {columns}, list(struct_pack({fields}) ORDER BY task, prompt) AS answers
        FROM {selection.rows} WHERE task IN ({", ".join(map(literal, tasks))}) GROUP BY key
    """
    for row in selection.dataset.rows(f"SELECT * FROM ({query}) ORDER BY {ORDER}"):
        yield to_json_value(row)


def place(
    rows: Iterable[dict[str, Any]],
    folder: Folder,
    fetch: Fetch,
    options: LayoutOptions,
    problems: Problems,
    images: str = "images",
) -> Iterator[Placed]:
    """Write the pictures of rows below ``images/SPLIT/`` of the folder, and yield the rows whose picture is there.

    If pictures stay where they are, all rows are yielded. ``problems`` counts the pictures that are missing.
    """
    if options.along == "no":
        for row in rows:
            problems[IN_CONTAINER] += bool(container_of(row["uri"]))
            kept = {name: value for name, value in row.items() if name not in BYTE_RANGE}
            yield Placed(kept, choose_split(options.splits, row, problems), row["filename"])
        return
    wanted = options.wanted if options.along == "copy" else UNCHANGED
    for row, file, problem in with_pictures(rows, fetch, wanted=wanted):
        if file is not None and options.along == "link":
            problem = _why_no_link(row["uri"], file)
        if file is None or problem:
            problems[problem] += 1
            continue
        split, key = choose_split(options.splits, row, problems), key_name(row["key"])
        name = f"{images}/{split}/{key[:2]}/{key}.{file.extension}"
        if options.along == "link":
            folder.link(name, path_of(relocate(row["uri"], None, None).uri))
            problems[LINKED_TURNED] += file.turned
        else:
            with folder.create(name) as copy:
                copy.write(file.content)
            count_changes(problems, file)
        yield Placed(row, split, name)


@contextlib.contextmanager
def open_lists(folder: Folder, splits: Splits, extension: str) -> Iterator[Callable[[str, Any], None]]:
    """Create the file ``SPLIT.json`` or ``SPLIT.jsonl`` for each split, and return a function that adds a value to one.

    ``extension`` is ``json``, for a list in each file, or ``jsonl``, for one value on each line.
    """
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(folder.create(f"{name}.{extension}")) for name in splits.names}
        is_list, begun = extension == "json", set()

        def add(split: str, value: Any) -> None:
            if is_list:
                files[split].write(b",\n" if split in begun else b"[\n")
                begun.add(split)
            files[split].write(json_bytes(value) + (b"" if is_list else b"\n"))

        yield add
        for name, file in files.items() if is_list else ():
            file.write(b"\n]\n" if name in begun else b"[]\n")


def write_json(folder: Folder, name: str, value: Any) -> None:
    """Write a small JSON file below the folder, with an indent."""
    with folder.create(name) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


def json_text(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON in UTF-8, on one line."""
    return json_text(value).encode()


def choose_split(splits: Splits, row: dict[str, Any], problems: Problems) -> str:
    """Return the split of a row's picture. Count the pictures of each split in ``problems`` if there are several."""
    split = splits.choose(row)
    if len(splits.names) > 1:
        problems[Note(f"is in the split {split}")] += 1
    return split


def is_local_file(uri: str) -> bool:
    """Return whether the picture of a row's URI is a file of its own on a disk."""
    return scheme_of(uri) == LOCAL and not container_of(uri)


def _why_no_link(uri: str, file: PictureFile) -> str:
    """Return why there can be no link to a picture; an empty text if there can be one."""
    if not is_local_file(uri):
        return CANT_LINK
    return CANT_LINK_FORMAT if file.converted else ""
