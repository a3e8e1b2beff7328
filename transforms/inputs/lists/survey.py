"""Look into all manifests before a run: which columns they have, and in which types the kept ones are stored."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from ...io.column_types import plain_type, stored_type, without_nulls
from ...io.containers.location import COLUMNAR
from ...io.containers.parquet_images import check_image_column
from ...io.object_stores.base import Stores
from ...io.parquet import BYTES_OF, CASTS, INT96
from .json_types import MIXED
from .table_files import JSON_LINES, kind_of
from .tables import schema_of
from .widening import widest

# Manifests that are read at the same time: buckets take 50 ms for a footer.
THREADS = 16
# Lines of JSON that show whether a file has a column. All lines are read for the types of kept columns.
NUM_SAMPLED_LINES = 1000
MAX_NAMED, MAX_TYPE_CHARACTERS = 20, 100


class StoredColumns(NamedTuple):
    """The types in which kept columns are stored, by source, and lines that say what is not stored as it is."""

    types: dict[str, pa.DataType]
    notes: tuple[str, ...] = ()


class _Column:
    """What the manifests seen so far hold in one kept column."""

    def __init__(self, name: str) -> None:
        self.name, self.kind = name, pa.null()
        # By type as text: the first manifest with this type.
        self.seen: dict[str, str] = {}
        self.mixed = self.int96 = ""
        self.num_missing, self.first_missing = 0, ""

    def add(self, path: str, schema: pa.Schema) -> None:
        """Widen the type of the column to hold the values of one more manifest.

        Raises:
            ValueError: if readers of the output would not get the values of this manifest.
        """
        if self.name not in schema.names:
            self.num_missing += 1
            self.first_missing = self.first_missing or path
            return
        field = schema.field(self.name)
        kind = self._stored(path, field)
        wider = widest(self.kind, kind)
        if wider is None:
            raise ValueError(
                f"column {self.name}: {_listed(self.seen)}, but {plain_type(field.type)} in {path}, and no type holds "
                "both: write one type in all manifests"
            )
        self.kind = wider
        if (twins := _twins(wider)) is not None:
            raise ValueError(
                f"manifest {path}: column {self.name} has fields {twins[0]} and {twins[1]}, which differ by case only,"
                " and Spark refuses such files: rename one in the manifest"
            )
        if not pa.types.is_null(field.type):
            self.seen.setdefault(str(plain_type(field.type)), path)
        if not self.mixed and (mixed := (field.metadata or {}).get(MIXED)):
            self.mixed = f"{mixed.decode()} in {path}"
        if not self.int96 and INT96 in (field.metadata or {}):
            self.int96 = path

    def _stored(self, path: str, field: pa.Field) -> pa.DataType:
        if kind := (field.metadata or {}).get(BYTES_OF, b"").decode():
            cast = CASTS[kind].format(self.name)
            raise ValueError(
                f"manifest {path}: column {self.name} holds {kind}, which would be kept as bare bytes: write {cast} in"
                " the manifest"
            )
        try:
            return stored_type(field.type)
        except ValueError as error:
            raise ValueError(f"manifest {path}: column {self.name}: {error}") from error

    def describe(self, num_files: int, files: str = "manifests") -> Iterator[str]:
        """Yield lines about what is not stored as it is in the files."""
        stored = without_nulls(self.kind)
        if self.mixed:
            yield f"column {self.name}: {self.mixed}; stored as {stored}"
        elif len(self.seen) > 1 or (self.seen and {str(stored), str(self.kind)}.isdisjoint(self.seen)):
            yield f"column {self.name}: {_listed(self.seen)}; stored as {stored}"
        if self.int96:
            yield (
                f"column {self.name} is INT96 in {self.int96}, which is read in microseconds: digits below are dropped;"
                " to keep them, write the column as text"
            )
        if self.num_missing:
            yield (
                f"column {self.name} is missing in {self.num_missing} of {num_files} {files}, the first of them "
                f"{self.first_missing}: null is stored in their rows"
            )


def survey_manifests(
    paths: Sequence[str], required: Mapping[str, str], kept: Sequence[str], image: str | None = None
) -> StoredColumns:
    """Check the columns of all manifests, and return the types in which the columns ``kept`` are stored.

    Of Parquet the footers are read, of CSV the first lines. JSON Lines are read to their end if columns are kept;
    otherwise only the start of the first file is read.

    Args:
        required: columns that each manifest must have, with the end of the message if one is missing. One file of JSON
            Lines is enough, because a field without a value may be left out there.
        kept: columns that at least one manifest must have.
        image: the column of pictures, if the manifests hold them.

    Raises:
        OSError: if a manifest can't be read.
        ValueError: if a manifest is broken or lacks a required column, or has values that readers of the output would
            not get; or if no manifest has a kept column, or ``image`` can't hold pictures.
    """
    columns = [_Column(name) for name in kept]
    schemas, json_names = _read_schemas(paths, bool(kept)), dict[str, None]()
    for path, schema in schemas:
        if kind_of(path) in JSON_LINES:
            json_names.update(dict.fromkeys(schema.names))
        else:
            _check_present(path, schema.names, required)
        if image is not None:
            _check_images(path, schema, image)
        for column in columns:
            column.add(path, schema)
    for path in [path for path in paths if kind_of(path) in JSON_LINES][:1]:
        _check_present(path, list(json_names), required)
    if missing := {column.name: "" for column in columns if column.num_missing == len(schemas)}:
        _check_present(paths[0], schema_of(paths[0]).names, missing)
    notes = (note for column in columns for note in column.describe(len(schemas)))
    return StoredColumns({column.name: without_nulls(column.kind) for column in columns}, tuple(notes))


def survey_schemas(schemas: Sequence[tuple[str, pa.Schema]], wanted: Sequence[str], files: str) -> StoredColumns:
    """Return the types in which the columns ``wanted`` are stored, from the schemas of all files, by their paths.

    Args:
        files: what the files are called in lines for the user, such as "manifests".

    Raises:
        ValueError: if no file has one of the columns, or no type holds its values in all files.
    """
    columns = [_Column(name) for name in wanted]
    for path, schema in schemas:
        for column in columns:
            column.add(path, schema)
    for name in (column.name for column in columns if column.num_missing == len(schemas)):
        there = ", ".join(sorted({each for _, schema in schemas for each in schema.names})[:MAX_NAMED])
        if not there:
            raise ValueError(f"column {name}: no picture has a .json file beside it: give a --manifest that has it")
        raise ValueError(f"column {name}: no .json beside the pictures has this field; they have {there}")
    notes = (note for column in columns for note in column.describe(len(schemas), files))
    return StoredColumns({column.name: without_nulls(column.kind) for column in columns}, tuple(notes))


def _read_schemas(paths: Sequence[str], with_types: bool) -> list[tuple[str, pa.Schema]]:
    """Return the schema of each manifest, in order. Without types, JSON Lines are left out after the first such file.

    Raises:
        ValueError: if a manifest is broken, with the number of the other broken ones.
    """

    def read(path: str) -> pa.Schema | ValueError:
        try:
            return schema_of(path, stores, max_lines)
        except ValueError as error:
            return error

    stores, max_lines = Stores(), None if with_types else NUM_SAMPLED_LINES
    first_json = next((path for path in paths if kind_of(path) in JSON_LINES), None)
    chosen = [path for path in paths if with_types or path == first_json or kind_of(path) not in JSON_LINES]
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="manifests")
    try:
        schemas = list(zip(chosen, pool.map(read, chosen), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    if broken := [schema for _, schema in schemas if isinstance(schema, ValueError)]:
        more = f" ({len(broken) - 1} more manifests are broken: correct them or leave them out too)" * (len(broken) > 1)
        raise ValueError(f"{broken[0]}{more}") from broken[0]
    return schemas


def _check_images(path: str, schema: pa.Schema, image: str) -> None:
    if kind_of(path) not in COLUMNAR:
        raise ValueError(f"manifest {path} is no Parquet or Arrow file, so no column holds pictures: give --uri-column")
    check_image_column(path, schema, image)


def _check_present(path: str, there: Sequence[str], wanted: Mapping[str, str]) -> None:
    for name, cure in wanted.items():
        if name not in there:
            # Quotes show spaces around a name, and a delimiter inside of it.
            names = ", ".join(map(repr, there[:MAX_NAMED])) or "none"
            alike = difflib.get_close_matches(name.lower(), {each.lower(): each for each in there}, 1)
            meant = next((each for each in there if alike and each.lower() == alike[0]), None)
            hint = f"; did you mean {meant!r}?" if meant is not None else ""
            raise ValueError(f"manifest {path} has no column {name!r}; it has {names}{cure}{hint}")


def _listed(seen: dict[str, str]) -> str:
    return ", ".join(f"{kind[:MAX_TYPE_CHARACTERS]} in {path}" for kind, path in seen.items()) or "no values"


def _twins(kind: pa.DataType) -> tuple[str, str] | None:
    """Return two fields of one struct inside a stored type whose names differ by case only, or None."""
    if pa.types.is_list(kind):
        return _twins(kind.value_type)
    if not pa.types.is_struct(kind):
        return None
    names: dict[str, str] = {}
    for field in kind:
        if field.name.casefold() in names:
            return names[field.name.casefold()], field.name
        names[field.name.casefold()] = field.name
    return next((found for field in kind if (found := _twins(field.type))), None)
