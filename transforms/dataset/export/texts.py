"""The texts of sidecar files: which texts, in which order, and under which names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...images.formats import EXTENSIONS
from ...io.uris import escape_non_utf8, unescape_non_utf8, unescape_path
from ..reader import identifier, literal
from .pictures.convert import Wanted
from .pictures.fetched import BYTE_RANGE
from .targets import Existing
from .wide import CONTAINER, Selection

MAX_PROMPTS_SHOWN = 10
# Columns that a picture's file is fetched and checked by.
FILE_COLUMNS = ("sha256", "width", "height", *BYTE_RANGE)
_EXTENSION = re.compile(r"\.[A-Za-z0-9_-]{1,20}")


class TextOptions(NamedTuple):
    """How sidecar files are written.

    Attributes:
        extension: the extension of the files, with a dot.
        order: prompts whose texts come first, in this order.
        existing: what happens to a file that exists with other content; see ``write_text``.
        template: the only line of each file, such as ``{caption}, {tags}``. Empty: the texts are the lines.
        only_first: write the first text of each picture only.
        copies: what is asked of a copy of each picture, beside its text. None: no pictures are written.
    """

    extension: str = ".txt"
    order: tuple[str, ...] = ()
    existing: Existing = "keep"
    template: str = ""
    only_first: bool = False
    copies: Wanted | None = None


DEFAULT_TEXTS = TextOptions()


def checked_extension(extension: str) -> str:
    """Return an extension for text files.

    Raises:
        ValueError: if it is not a dot and letters or digits, or if pictures have it.
    """
    if not _EXTENSION.fullmatch(extension):
        raise ValueError(f"--text-extension {extension}: give a dot and letters or digits, such as .caption")
    if extension.lower() in EXTENSIONS:
        raise ValueError(f"--text-extension {extension}: pictures have this extension; give another, such as .caption")
    return extension


def text_task(selection: Selection) -> str:
    """Return the task whose texts are written: ``caption``, or ``query`` if no caption is selected."""
    return "caption" if selection.answers_to["caption"] else "query"


def name_on_disk(folder: str, filename: str) -> str:
    """Return the picture's name with its original bytes.

    A row shows the bytes of a name that is not valid UTF-8 as escapes. They are undone if the folder has such a file.
    """
    written = os.path.join(folder, filename)
    return filename if unescape_path(written) == written else unescape_non_utf8(filename)


def texts_query(
    selection: Selection,
    destination: str,
    order: Sequence[str] = (),
    fields: Mapping[str, str] | None = None,
    *,
    has_files: bool = False,
) -> str:
    """Return an SQL query for ``key``, ``filename``, ``uri``, ``lies_below``, ``texts`` and ``shares`` of each picture.

    ``texts`` is a list of its captions, or of its answers if the selection has no captions. ``shares`` is true if
    another picture's name differs only in extension or case, and ``lies_below`` if the picture lies below
    ``destination``. The texts of a picture are sorted by the positions of their prompts in ``order``, and those of
    other prompts follow, sorted by prompt. ``fields`` are more columns: a name, which gets ``field_`` before it, and an
    SQL expression over the rows of a picture. With ``has_files``, the ``FILE_COLUMNS`` are there too.

    Raises:
        ValueError: if ``order`` has a prompt that no selected text answers.
    """
    task, start = text_task(selection), literal(escape_non_utf8(f"{destination.rstrip('/')}/"))
    _check_order(selection, task, order)
    rank = f"coalesce(list_position([{', '.join(map(literal, order))}], prompt), {len(order) + 1})" if order else "1"
    more = {identifier(f"field_{name}"): expression for name, expression in (fields or {}).items()}
    more |= {name: f"arg_max({name}, created_at)" for name in (FILE_COLUMNS if has_files else ())}
    computed = "".join(f", {expression} AS {name}" for name, expression in more.items())
    return f"""
        SELECT key, filename, uri, lies_below, texts{"".join(f", {name}" for name in more)},
            count(*) OVER (PARTITION BY lower(regexp_replace(filename, '\\.[^./]*$', ''))) > 1 AS shares
        FROM (
            SELECT key, {_name_below(start)} AS filename, arg_max(uri, created_at) AS uri,
                {_lies_below(start)} AS lies_below{computed},
                list(trim(regexp_replace(caption, '\\s+', ' ', 'g')) ORDER BY {rank}, prompt)
                    FILTER (WHERE task = '{task}' AND trim(caption) != '') AS texts
            FROM {selection.rows} GROUP BY key)
        ORDER BY filename, key
    """


def _check_order(selection: Selection, task: str, order: Sequence[str]) -> None:
    asked = f"SELECT DISTINCT prompt FROM {selection.rows} WHERE task = {literal(task)} ORDER BY prompt"
    prompts = [prompt for (prompt,) in selection.dataset.tuples(asked)]
    for prompt in order:
        if prompt not in prompts:
            known = ", ".join(map(repr, prompts[:MAX_PROMPTS_SHOWN]))
            raise ValueError(
                f"--text-order {prompt}: no chosen {task} has this prompt; the prompts are {known or 'none'}"
            )


def _name_below(start: str) -> str:
    """Return an SQL expression, over the rows of a picture, for its name: its path below a folder if it lies there.

    Else it is the first of its file names. ``start`` is the path of the folder with a slash, as SQL.
    """
    rest = f"substr(any_value(uri), length({start}) + 1)"
    return f"CASE WHEN {_lies_below(start)} THEN {rest} ELSE min(filename) END"


def _lies_below(start: str) -> str:
    """Return an SQL expression for whether a picture lies below a folder.

    A picture in an archive or a Parquet file has no path of its own.
    """
    return f"""(starts_with(any_value(uri), {start}) AND NOT contains(any_value(uri), '/../')
            AND NOT regexp_matches(any_value(uri), '{CONTAINER}', 'i'))"""
