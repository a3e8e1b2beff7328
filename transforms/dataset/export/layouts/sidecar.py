"""Text files beside pictures, and the metadata file of kohya's scripts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ....images.prefetch import Fetch
from ....images.refetch import relocate
from ....io.containers.location import container_of
from ....io.uris import path_of
from ....output.files import is_local
from ..names import is_named_like, key_name, relative_name
from ..pictures.convert import PictureFile
from ..pictures.fetched import with_pictures
from ..pictures.notes import NO_TEXT, Note, Problems, count_changes
from ..targets import new_file, write_once, write_text
from ..texts import DEFAULT_TEXTS, TextOptions, name_on_disk, texts_query
from ..wide import Selection
from .placing import is_local_file, json_text
from .template import CAPTION, field_columns, fill, one_line, parse_fields

ANOTHER_TEXT = (
    "has a text file with other content, which was kept: export again with --existing add or --existing replace, or "
    "move that file away"
)
CANT_SHARE_NAME = (
    "has a name that its text can't have: the text file is named differently; to write the texts beside the pictures, "
    "export to the folder that holds the pictures"
)
SHARES_NAME = Note("shares its name with another picture: the name of its text file contains its key")
# By the outcome of ``write_text``.
IN_CONTAINER = Note("lies in an archive or a Parquet file, so no picture is beside its text: export with --copy")
ANOTHER_PICTURE = "has another picture in the place of its copy, which was kept: export to another folder"
SAME_TEXT = Note("has its text file already, with the same text")
EXISTED = {
    "same": SAME_TEXT,
    "kept": ANOTHER_TEXT,
    "added": Note("has new lines at the end of its text file"),
    "replaced": Note("has a new text in place of another"),
}
NO_VALUE = "lacks a value for a field of --template, so it has no text file"
MORE_LINES = Note("has more texts than the first, which --text-lines first leaves out")
NO_FILE = "is no file on this disk, so kohya's metadata can't name it: export with --copy"
# The name that the documentation of kohya's scripts gives to metadata with captions.
METADATA = "meta_cap.json"
TAGS = "tags"


def to_sidecar(selection: Selection, destination: str, fetch: Fetch, texts: TextOptions = DEFAULT_TEXTS) -> Problems:
    """Write a text file for each picture, with the picture's name and one caption on each line.

    The text of a picture that lies below ``destination`` lies beside the picture. With ``texts.copies``, a copy of each
    other picture is written beside its text. A picture that cannot be copied has no text then.

    If the selection has no captions, answers to queries are written instead. Existing files are kept, unless ``texts``
    says otherwise. Pictures whose names differ only in extension or case have their key in the name of the text file.

    Raises:
        ValueError: if ``texts.order`` has a prompt that no selected text answers, or ``texts.template`` a field that
            the rows lack.
    """
    problems = Problems()
    for _ in _write_texts(selection, destination, fetch, texts, problems):
        pass
    return +problems


def to_kohya(selection: Selection, destination: str, fetch: Fetch, texts: TextOptions = DEFAULT_TEXTS) -> Problems:
    """Write the text files of ``to_sidecar``, and ``meta_cap.json`` in the destination.

    That file has ``caption`` for the absolute path of each picture or its copy, with the lines of its text file. If a
    manifest gave a column ``tags``, ``tags`` stand there too.

    Raises:
        ValueError: see ``to_sidecar``; or if ``meta_cap.json`` exists.
    """
    problems, separator = Problems(), ""
    tags = [name for name in selection.manifest_columns() if name == TAGS]
    with new_file(f"{destination.rstrip('/')}/{METADATA}") as metadata:
        metadata.write("{")
        for row, lines, copy in _write_texts(selection, destination, fetch, texts, problems, tags):
            path = _path_on_disk(row["uri"], destination, copy)
            if path is None:
                problems[NO_FILE] += 1
                continue
            entry = {"caption": "\n".join(lines)}
            if tags and (listed := one_line(row[f"field_{TAGS}"])):
                entry[TAGS] = listed
            metadata.write(f"{separator}\n{json_text(path)}: {json_text(entry)}")
            separator = ","
        metadata.write("\n}\n")
    return +problems


def _write_texts(
    selection: Selection,
    destination: str,
    fetch: Fetch,
    texts: TextOptions,
    problems: Problems,
    more: Sequence[str] = (),
) -> Iterator[tuple[dict[str, Any], list[str], str]]:
    """Write the text files and the copies. Yield the row, the lines and the copy's name of each picture with a text.

    The name of the copy is empty if there is none. ``more`` names columns of the manifest that are in the rows, with
    ``field_`` before their names.
    """
    fields = field_columns(selection, [*(parse_fields(texts.template) if texts.template else ()), *more])
    has_files = texts.copies is not None
    rows = selection.dataset.rows(texts_query(selection, destination, texts.order, fields, has_files=has_files))
    with_lines = ({**row, "lines": lines} for row in rows if (lines := _lines(row, texts, problems)))
    for row, file in _with_files(with_lines, fetch, texts, problems):
        name, copy = _names(row, file, destination, texts, problems)
        if copy and file and not write_once(destination, copy, file.content):
            problems[ANOTHER_PICTURE] += 1
            continue
        if copy and file:
            count_changes(problems, file)
        if outcome := write_text(destination, name, "\n".join(row["lines"]) + "\n", texts.existing):
            problems[EXISTED[outcome]] += 1
        problems[IN_CONTAINER] += bool(container_of(row["uri"])) and not copy
        yield row, row["lines"], copy


def _with_files(
    rows: Iterable[dict[str, Any]], fetch: Fetch, texts: TextOptions, problems: Problems
) -> Iterator[tuple[dict[str, Any], PictureFile | None]]:
    """Yield each row with the file to copy, or None if nothing is copied. Count the pictures that have no file."""
    if texts.copies is None:
        yield from ((row, None) for row in rows)
        return
    for row, file, problem in with_pictures(rows, fetch, wanted=texts.copies):
        if file is None:
            problems[problem] += 1
        else:
            yield row, file


def _names(
    row: dict[str, Any], file: PictureFile | None, destination: str, texts: TextOptions, problems: Problems
) -> tuple[str, str]:
    """Return the names of a picture's text and of its copy below ``destination``; "" for a copy that is not written."""
    filename = name_on_disk(destination, row["filename"])
    extensions = [texts.extension]
    if file is not None and not row["lies_below"]:
        extensions.append(f".{file.extension}")
    mark = f"-{key_name(row['key'])}" if row["shares"] else ""
    # Names have a greatest length. Text and copy must have the same name before the extension.
    longest = max(extensions, key=len)
    path = relative_name(filename, mark + longest)
    stem = path.as_posix().removesuffix(longest)
    problems[SHARES_NAME] += row["shares"]
    copies = [stem + extension for extension in extensions[1:]]
    if not copies:
        problems[CANT_SHARE_NAME] += bool(filename) and not row["shares"] and not is_named_like(path, filename)
    return stem + texts.extension, "".join(copies)


def _path_on_disk(uri: str, destination: str, copy: str) -> str | None:
    """Return the path of a picture's copy, or else of the picture; None if that is no file on this disk."""
    if copy:
        return os.path.join(destination, copy) if is_local(destination) else None
    return path_of(relocate(uri, None, None).uri) if is_local_file(uri) else None


def _lines(row: dict[str, Any], texts: TextOptions, problems: Problems) -> list[str]:
    """Return the lines of a picture's text file; an empty list if there is no text, which is counted."""
    found = row["texts"] or []
    if texts.template:
        values = {name.removeprefix("field_"): value for name, value in row.items() if name.startswith("field_")}
        text = fill(texts.template, {**values, CAPTION: found[0] if found else None})
        problems[NO_VALUE] += text is None
        return [] if text is None else [text]
    problems[NO_TEXT] += not found
    if texts.only_first:
        problems[MORE_LINES] += len(found) > 1
        return list(found[:1])
    return list(found)
