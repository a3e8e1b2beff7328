"""The columns of manifests that a job uses, and the check of all manifests before a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from ...models.tasks import Task
from ..core.kept.names import name_columns
from ..core.prompt_templates import fill_templates, lacks_column, named_columns
from ..core.records import ImageRef, Skipped
from ..core.row_schema import OWN_COLUMNS
from ..io.column_types import plain_type, stored_type, without_nulls
from ..io.containers.parquet_images import ListedImage
from .lists.addresses import path_hint
from .lists.survey import survey_manifests
from .lists.table_files import list_manifests
from .lists.tables import TableRow
from .lists.widening import widest
from .patterns.patterns import absolute_pattern
from .root import check_root

EMPTY_PROMPT = "questions or objects whose column is empty"


@dataclass(frozen=True)
class Columns:
    """The columns of a manifest that are used.

    ``uri`` holds the place of the image, or ``image`` the image itself (Parquet only). ``filename`` holds the name of
    the image; without it the name is the end of the URI. ``tasks`` may name columns in braces. ``kept`` columns are
    copied to the rows of the output; ``sources`` are their names in the manifest if these differ. ``notes`` are lines
    for the user about what is not kept as it is in the manifest. ``root`` is the folder, on a disk or in a bucket, that
    relative paths are relative to, in place of the folder of the manifest. Below it, a path without the extension of an
    image names the only image whose name is the path and an extension. With ``skip_empty_prompts``, a task whose prompt
    names an empty column is left out and counted, in place of a failure.

    Raises:
        ValueError: if neither ``uri`` nor ``image`` is given, or both; or if ``root`` is given with ``image``.
    """

    uri: str | None = None
    filename: str | None = None
    tasks: tuple[Task, ...] = ()
    kept: tuple[pa.Field, ...] = ()
    image: str | None = None
    root: str | None = None
    skip_empty_prompts: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.image is None):
            raise ValueError(
                "a manifest has one column of pictures: give either --uri-column (URIs) or --image-column (bytes)"
            )
        if self.root is not None and self.uri is None:
            raise ValueError(f"root {self.root}: a column of bytes names no files; leave out --root, or --image-column")

    def names(self) -> list[str]:
        """Return the columns to read, each once, without the column ``image`` and those that are only kept.

        Raises:
            ValueError: if a brace in a prompt is single, or a pair of braces holds anything but a column's name.
        """
        plain = [name for name in (self.uri, self.filename) if name]
        return list(dict.fromkeys([*plain, *named_columns(self.tasks)]))

    def kept_types(self) -> dict[str, pa.DataType]:
        """Return the types in which kept columns are stored, by their names in the manifest."""
        return {self.sources.get(one.name, one.name): one.type for one in self.kept}

    def own_tasks(self) -> bool:
        """Return whether each reference gets tasks of its own: a prompt names a column, or a column is kept."""
        return bool(self.kept or named_columns(self.tasks))


def asked_refs(ref: ImageRef, row: TableRow | ListedImage, columns: Columns, place: str) -> Iterator[ImageRef]:
    """Yield a reference with the tasks of its row, and one with ``skipped`` for what is left out; see ``Columns``."""
    lacking = [task for task in columns.tasks if lacks_column(task, row.values)] if columns.skip_empty_prompts else []
    # The values of a row that can't be read are unknown.
    if not lacking or (row.problem and not row.values):
        yield with_tasks(ref, row, columns, f"{place}: ")
        return
    left = tuple(task for task in columns.tasks if task not in lacking)
    for number, _ in enumerate(lacking):
        # A row of which nothing is left is counted as one input.
        yield ImageRef(ref.uri, place, skipped=Skipped(EMPTY_PROMPT, is_input=not left and number == 0))
    if left:
        yield with_tasks(ref, row, columns, f"{place}: ", left)


def with_tasks(
    ref: ImageRef, row: TableRow | ListedImage, columns: Columns, place: str, asked: tuple[Task, ...] = ()
) -> ImageRef:
    """Return a reference with the filled-in tasks and the kept columns of its row.

    A task whose prompt names an empty column gets a problem. ``place`` is the row, for its message. The tasks are those
    of ``columns``, unless ``asked`` has others.
    """
    if not columns.own_tasks():
        return ref
    tasks, problems = fill_templates(asked or columns.tasks, row.values, place, ref.problem.removeprefix(place))
    # A broken row has no values.
    stored = dict(zip(columns.kept_types(), row.kept, strict=bool(row.kept)))
    kept = tuple(stored.get(columns.sources.get(one.name, one.name)) for one in columns.kept)
    return ref._replace(tasks=tasks, columns=(kept,) * len(tasks) if kept else (), problems=problems)


def check_columns(
    patterns: Sequence[str],
    columns: Columns,
    keep: Sequence[str],
    *,
    taken: Iterable[str] = OWN_COLUMNS,
    published: Mapping[str, pa.DataType] | None = None,
) -> Columns:
    """Check the columns of all manifests, and return ``columns`` with those in ``keep`` as typed fields.

    A field has a type that holds the values of all manifests. See ``survey_manifests`` for what is read.

    Args:
        keep: columns to keep, ``SOURCE`` or ``SOURCE=NAME``; see ``name_columns``.
        taken: the names that kept columns can't have.
        published: the types of the columns that the rows of the output have already. They are used if they hold all
            values of the manifests.

    Raises:
        ValueError: if a pattern matches nothing, a column is missing or can't be kept, or ``columns.image`` can't hold
            images.
    """
    names = name_columns(keep, taken)
    sources = [name.source for name in names]
    if columns.image in (*columns.names(), *sources):
        raise ValueError(
            f"column {columns.image!r} holds the pictures: don't keep it, or name it in a prompt or as filename"
        )
    paths = _all_manifests(patterns)
    required = {name: _cure(name, columns) for name in columns.names()}
    survey = survey_manifests(paths, required, list(dict.fromkeys(sources)), columns.image)
    types = fit_output({name.name: survey.types[name.source] for name in names}, published or {})
    kept = tuple(pa.field(name, kind) for name, kind in types.items())
    notes = (*filter(None, (name.note() for name in names)), *survey.notes)
    root = check_root(columns.root) if columns.root else None
    return replace(columns, kept=kept, sources={name.name: name.source for name in names}, notes=notes, root=root)


def fit_output(types: dict[str, pa.DataType], published: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return ``types``, each replaced by the type of the ``published`` rows if that is wider."""
    for name, there in published.items():
        # An older version stored other types too, such as timestamps in nanoseconds.
        is_current = plain_type(there) == (stored := without_nulls(stored_type(there)))
        if is_current and name in types and widest(stored, types[name]) == stored:
            types = {**types, name: stored}
    return types


def _all_manifests(patterns: Sequence[str]) -> list[str]:
    """Return the manifests that the patterns match, each once.

    Raises:
        ValueError: if a pattern matches nothing, or a manifest has a name that does not end like one.
    """
    paths: dict[str, None] = {}
    for pattern in patterns:
        found = dict.fromkeys(list_manifests(absolute_pattern(pattern)))
        if not found:
            cure = path_hint(pattern) or "check the path, and quote a glob"
            what = "no table in this folder" if os.path.isdir(pattern) else "no such file"
            raise ValueError(f"manifest {pattern}: {what}; {cure}")
        paths.update(found)
    return list(paths)


def _cure(name: str, columns: Columns) -> str:
    """Return the end of the message about a manifest without the column ``name``, from the use of the column."""
    if name == columns.uri:
        # The name may be the default, which the user did not give.
        return ": name its column of paths or URLs with --uri-column"
    if name in named_columns(columns.tasks):
        return ": correct the prompt, and write {{ and }} for braces that are not around a column"
    return ""
