"""Text files beside pictures, and the metadata file of kohya's scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ....images.prefetch import Fetch
from ....images.refetch import relocate
from ....io.containers.location import container_of
from ....io.uris import path_of
from ..names import is_named_like, key_name, relative_name
from ..pictures.notes import NO_TEXT, Note, Problems
from ..targets import new_file, write_text
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
IN_CONTAINER = Note("lies in an archive or a Parquet file, so no picture is beside its text: unpack it there")
SAME_TEXT = Note("has its text file already, with the same text")
EXISTED = {
    "same": SAME_TEXT,
    "kept": ANOTHER_TEXT,
    "added": Note("has new lines at the end of its text file"),
    "replaced": Note("has a new text in place of another"),
}
NO_VALUE = "lacks a value for a field of --template, so it has no text file"
MORE_LINES = Note("has more texts than the first, which --text-lines first leaves out")
NO_FILE = "is no file on this disk, so kohya's metadata can't name it"
# The name that the documentation of kohya's scripts gives to metadata with captions.
METADATA = "meta_cap.json"
TAGS = "tags"


def to_sidecar(selection: Selection, destination: str, fetch: Fetch, texts: TextOptions = DEFAULT_TEXTS) -> Problems:
    """Write a text file for each picture, with the picture's name and one caption on each line.

    The text of a picture that lies below ``destination`` lies beside the picture.

    If the selection has no captions, answers to queries are written instead. Existing files are kept, unless ``texts``
    says otherwise. Pictures whose names differ only in extension or case have their key in the name of the text file.

    Raises:
        ValueError: if ``texts.order`` has a prompt that no selected text answers, or ``texts.template`` a field that
            the rows lack.
    """
    problems = Problems()
    for _ in _write_texts(selection, destination, texts, problems):
        pass
    return +problems


def to_kohya(selection: Selection, destination: str, fetch: Fetch, texts: TextOptions = DEFAULT_TEXTS) -> Problems:
    """Write the text files of ``to_sidecar``, and ``meta_cap.json`` in the destination.

    That file has ``caption`` for the absolute path of each picture, with the lines of its text file. If a manifest
    gave a column ``tags``, ``tags`` stand there too.

    Raises:
        ValueError: see ``to_sidecar``; or if ``meta_cap.json`` exists.
    """
    problems, separator = Problems(), ""
    tags = [name for name in selection.manifest_columns() if name == TAGS]
    with new_file(f"{destination.rstrip('/')}/{METADATA}") as metadata:
        metadata.write("{")
        for row, lines in _write_texts(selection, destination, texts, problems, tags):
            if not is_local_file(row["uri"]):
                problems[NO_FILE] += 1
                continue
            path = path_of(relocate(row["uri"], None, None).uri)
            entry = {"caption": "\n".join(lines)}
            if tags and (listed := one_line(row[f"field_{TAGS}"])):
                entry[TAGS] = listed
            metadata.write(f"{separator}\n{json_text(path)}: {json_text(entry)}")
            separator = ","
        metadata.write("\n}\n")
    return +problems


def _write_texts(
    selection: Selection, destination: str, texts: TextOptions, problems: Problems, more: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Write the text files, and yield the row and the lines of each picture that has a text.

    ``more`` names columns of the manifest that are in the rows, with ``field_`` before their names.
    """
    fields = field_columns(selection, [*(parse_fields(texts.template) if texts.template else ()), *more])
    for row in selection.dataset.rows(texts_query(selection, destination, texts.order, fields)):
        lines = _lines(row, texts, problems)
        if not lines:
            continue
        suffix = f"-{key_name(row['key'])}{texts.extension}" if row["shares"] else texts.extension
        problems[SHARES_NAME] += row["shares"]
        filename = name_on_disk(destination, row["filename"])
        path = relative_name(filename, suffix)
        problems[CANT_SHARE_NAME] += bool(filename) and not row["shares"] and not is_named_like(path, filename)
        if outcome := write_text(destination, path.as_posix(), "\n".join(lines) + "\n", texts.existing):
            problems[EXISTED[outcome]] += 1
        problems[IN_CONTAINER] += bool(container_of(row["uri"]))
        yield row, lines


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
