"""Columns of pictures that are no rows of a table: the fields of the JSON file beside each picture.

img2dataset and webdataset write such files: ``000.json`` beside ``000.jpg``, in a folder or in a tar archive.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ..core.kept.names import name_columns
from ..core.prompt_templates import named_columns
from ..core.records import FILES_ENDING, ImageRef
from ..core.row_schema import OWN_COLUMNS
from ..io.containers.location import Member, is_archive, is_compressed
from ..io.containers.reader import ContainerReader
from ..io.files import MAX_JSON_BYTES, open_file, read_if_there
from ..io.object_stores.base import Stores
from ..io.retry import RetryPolicy
from ..io.uris import LOCAL, OBJECT_STORE_SCHEMES, basename, scheme_of
from .lists.json_types import json_schema, parse_json
from .lists.survey import StoredColumns, survey_schemas
from .lists.tables import TableRow, with_kept
from .manifest_columns import Columns, asked_refs, fit_output
from .patterns.patterns import absolute_pattern, expand_pattern, list_archive, list_images

JSON = ".json"
# Archives, or groups of NUM_FILES files, whose JSON is read at the same time.
THREADS, NUM_FILES = 16, 1000
NO_JSON = "pictures without a .json beside them"
# In an archive, "#2" follows the name of the second member of a name.
_NAME = re.compile(r"(.*?)(\.[^./#]*)?(#\d+)?", re.DOTALL)


def with_columns(ref: ImageRef, columns: Columns, stores: Stores) -> Iterator[ImageRef]:
    """Yield the picture of a reference, or those in its archive, with the tasks and kept columns of their JSON.

    If there is no JSON beside a picture, kept columns are null. If the JSON is broken, the reference has a ``problem``.
    """
    for picture, row in _rows_in(ref, columns, stores):
        if picture.skipped or picture.problem:
            yield picture
        else:
            yield from _with_row(picture, row or TableRow(0, {}), columns)


def is_json_count(ref: ImageRef) -> bool:
    """Return whether a reference counts files ending in ``.json``, which are left out of a folder."""
    return ref.skipped is not None and ref.skipped.kind == f"{FILES_ENDING}{JSON}"


def check_json_columns(
    patterns: Sequence[str], columns: Columns, keep: Sequence[str], published: Mapping[str, pa.DataType]
) -> Columns:
    """Read the JSON beside all pictures, and return ``columns`` with the columns in ``keep`` as typed fields.

    Args:
        keep: fields to keep, ``SOURCE`` or ``SOURCE=NAME``; see ``name_columns``.
        published: the types of the columns that the rows of the output have already.

    Raises:
        ValueError: if no JSON has a field that is kept or named in a prompt, or no type holds its values.
        OSError: if a file can't be read.
    """
    names = name_columns(keep, OWN_COLUMNS)
    wanted = list(dict.fromkeys([*(name.source for name in names), *named_columns(columns.tasks)]))
    survey, num_missing = _survey(patterns, wanted)
    types = fit_output({name.name: survey.types[name.source] for name in names}, published)
    notes = [*filter(None, (name.note() for name in names)), *survey.notes]
    if num_missing:
        notes.append(f"{num_missing} {NO_JSON}: null is stored in their rows")
    kept = tuple(pa.field(name, kind) for name, kind in types.items())
    return replace(columns, kept=kept, sources={name.name: name.source for name in names}, notes=tuple(notes))


def _survey(patterns: Sequence[str], wanted: Sequence[str]) -> tuple[StoredColumns, int]:
    """Return the types of the fields ``wanted``, and how many pictures have no JSON beside them."""
    stores, missing = Stores(), list[int]()

    def schema_of(group: list[ImageRef]) -> tuple[str, pa.Schema]:
        """Return the fields in the JSON beside these pictures, or beside those in one archive."""
        rows = [
            row
            for ref in group
            for picture, row in _rows_in(ref, None, stores)
            if not picture.skipped and not picture.problem
        ]
        missing.append(sum(row is None for row in rows))
        return group[0].uri, json_schema(row.values for row in rows if row)

    found = (ref for pattern in patterns for ref in _list(pattern, stores))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="json") as pool:
        schemas = list(pool.map(schema_of, _groups(found)))
    return survey_schemas(schemas, wanted, "archives and folders"), sum(missing)


def _list(pattern: str, stores: Stores) -> Iterator[ImageRef]:
    for name in expand_pattern(absolute_pattern(pattern), stores):
        yield from list_images(name, stores)


def _groups(refs: Iterable[ImageRef]) -> Iterator[list[ImageRef]]:
    """Yield each archive alone, and all other pictures in groups of ``NUM_FILES``."""
    files: list[ImageRef] = []
    for ref in refs:
        if is_archive(ref.uri):
            yield [ref]
            continue
        files.append(ref)
        if len(files) == NUM_FILES:
            yield files
            files = []
    if files:
        yield files


Rows = Iterator[tuple[ImageRef, TableRow | None]]


def _rows_in(ref: ImageRef, columns: Columns | None, stores: Stores) -> Rows:
    """Yield the pictures of a reference, each with the row of its JSON; None if there is none."""
    return _rows_in_archive(ref, columns, stores) if is_archive(ref.uri) else _row_of(ref, columns, stores)


def _row_of(ref: ImageRef, columns: Columns | None, stores: Stores) -> Rows:
    """Yield the picture of a reference with the row of the JSON file beside it."""
    path, _ = posixpath.splitext(ref.uri)
    content = (
        read_if_there(path + JSON, MAX_JSON_BYTES, stores)
        if scheme_of(ref.uri) in (LOCAL, *OBJECT_STORE_SCHEMES)
        else None
    )
    yield ref, None if content is None else _parse(basename(path + JSON), content, columns)


def _rows_in_archive(ref: ImageRef, columns: Columns | None, stores: Stores) -> Rows:
    """Yield the pictures in an archive, each with the row of its JSON member, and what is skipped there.

    A picture is held back until its JSON is found, at most to the end of the archive.
    """
    rows, held = dict[str, TableRow](), list[ImageRef]()
    with _member_reader(ref.uri, stores) as read:

        def add(member: Member) -> None:
            content = read(member) if member.size <= MAX_JSON_BYTES else b""
            rows[member.name] = _parse(posixpath.basename(member.name), content, columns)

        for found in list_archive(ref, stores, (JSON, add)):
            # Only the best name yet: JSON of that name may follow.
            while held and (row := rows.get(next(_names(held[-1].filename)))):
                yield held.pop(), row
            if found.skipped or found.problem:
                yield found, None
            else:
                held.append(found)
    for each in held:
        yield each, next((rows[name] for name in _names(each.filename) if name in rows), None)


def _names(picture: str) -> Iterator[str]:
    """Yield the names that the JSON beside a picture in an archive may have, the best first.

    It is called like the picture but for the extension. Else it is called like the sample of webdataset, which is
    the base name up to its first dot.
    """
    match = _NAME.fullmatch(picture)
    stem, number = (match[1], match[3] or "") if match else (picture, "")
    folder, slash, base = stem.rpartition("/")
    sample = f"{folder}{slash}{base.partition('.')[0]}"
    yield from (f"{stem}{JSON}{number}", f"{sample}{JSON}{number}", f"{stem}{JSON}", f"{sample}{JSON}")


def _parse(name: str, content: bytes, columns: Columns | None) -> TableRow:
    """Return the row of a JSON file, with the values that ``columns`` need; None: with all values."""
    values, problem = {}, ""
    try:
        values = parse_json(content)
        if not isinstance(values, dict):
            values, problem = {}, "this is no JSON object"
    except (ValueError, RecursionError) as error:
        problem = f"this is no JSON: {error}"
    row = TableRow(0, values, problem and f"{name}: {problem}; correct the file")
    if columns is None:
        return row
    (row,) = with_kept([row], columns.kept_types())
    return row._replace(values={each: row.values[each] for each in columns.names() if each in row.values})


def _with_row(ref: ImageRef, row: TableRow, columns: Columns) -> Iterator[ImageRef]:
    if row.problem:
        ref = ref._replace(problem=row.problem)
    yield from asked_refs(ref, row, columns, ref.filename)


@contextlib.contextmanager
def _member_reader(archive: str, stores: Stores) -> Iterator[Callable[[Member], bytes]]:
    """Return a function that reads members of one archive in the order in which they lie in it."""
    if is_compressed(archive):
        reader = ContainerReader(stores)
        yield lambda member: reader.read_member(member, RetryPolicy())
        return
    with contextlib.ExitStack() as stack:

        def read(member: Member) -> bytes:
            # Opened with the first member: an archive that can't be opened is reported by its listing.
            file = opened[0] if opened else stack.enter_context(open_file(archive, stores))
            opened[:] = [file]
            file.seek(member.offset)
            content: bytes = file.read(member.size)
            return content

        opened: list[Any] = []
        yield read
