"""The files that a push uploads: links to those of an output, or copies with the pictures in a column ``image``."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ...images.prefetch import Fetch
from ...io.object_stores.file_systems import FileSystems
from ...output.files import glob_files, is_local
from ...output.layout import DATA, ERRORS, kind_of
from ..export.pictures.fetched import BYTE_RANGE, Packed, with_pictures
from ..reader import unused_name

IMAGE = "image"
IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
# Files are uploaded and deleted once they have this many bytes, because an output with pictures may not fit a disk.
MAX_STAGED_BYTES = 4 << 30
# Rows in a row group with pictures. The viewer of the hub reads whole row groups.
ROWS_PER_GROUP = 100


class Part(NamedTuple):
    """A Parquet file of an output, and its name in the dataset, such as ``data/part-RUN-00000.parquet``."""

    path: str
    name: str


def list_parts(output: str) -> list[Part]:
    """Return the Parquet files of an output, those in ``data`` first."""
    paths = [
        path for kind in (DATA, ERRORS) for path in sorted(glob_files(FileSystems.join(output, kind, "*.parquet")))
    ]
    return [Part(path, f"{kind_of(path)}/{FileSystems.split(path)[1]}") for path in paths]


def stage_batches(parts: list[Part], folder: Path, fetch: Fetch | None, left: Counter[str]) -> Iterator[list[str]]:
    """Write the files of parts below a folder, and yield the names of those that are there, in batches.

    The files of a batch are deleted when the next one is asked for. A batch has at least one file, and ends when its
    new files have ``MAX_STAGED_BYTES`` bytes.

    Args:
        fetch: reads the pictures, which become a column of the files in ``data``; None: no pictures.
        left: is increased by one for each row whose picture could not be embedded, by the reason.
    """
    names: list[str] = []
    size = 0
    for part in parts:
        target = folder / part.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if fetch and part.name.startswith(f"{DATA}/"):
            with FileSystems.open(part.path) as file:
                _embed(file, target, fetch, left)
        elif is_local(part.path):
            os.symlink(part.path, target)
        else:
            with FileSystems.open(part.path) as file, open(target, "wb") as copy:
                shutil.copyfileobj(file, copy)
        names.append(part.name)
        size += 0 if target.is_symlink() else target.stat().st_size
        if size >= MAX_STAGED_BYTES:
            yield names
            for name in names:
                (folder / name).unlink()
            names, size = [], 0
    if names:
        yield names


def pushed_schema(schema: pa.Schema, *, with_images: bool) -> pa.Schema:
    """Return the columns of a pushed file in ``data`` whose source has ``schema``.

    Pictures are the last column, with the metadata by which ``datasets`` reads it as ``Image``. It is named ``image``,
    or ``image_2`` and so on if there is a column of this name.
    """
    if not with_images:
        return schema
    taken = {name.casefold() for name in schema.names}
    name = IMAGE if IMAGE not in taken else unused_name(IMAGE, taken)
    features = {"info": {"features": {name: {"_type": "Image"}}}}
    columns = schema.append(pa.field(name, IMAGE_TYPE))
    return columns.with_metadata({**(schema.metadata or {}), b"huggingface": json.dumps(features).encode()})


def _embed(file: Any, target: Path, fetch: Fetch, left: Counter[str]) -> None:
    """Copy a Parquet file with a column of pictures. Where a picture can't be embedded, the column is null."""
    source = pq.ParquetFile(file)
    schema = pushed_schema(source.schema_arrow, with_images=True)
    with pq.ParquetWriter(target, schema) as writer:
        for batch in source.iter_batches(ROWS_PER_GROUP):
            table = pa.Table.from_batches([batch])
            pictures = pa.array(_pictures(table, fetch, left), IMAGE_TYPE)
            writer.write_table(pa.Table.from_arrays([*table.columns, pictures], schema=schema))


def _pictures(table: pa.Table, fetch: Fetch, left: Counter[str]) -> list[dict[str, Any] | None]:
    """Return the picture of each row. A picture of several rows is fetched once."""
    columns = ("key", "uri", "sha256", *(name for name in BYTE_RANGE if name in table.schema.names))
    # Rows of old versions have no byte range.
    rows = [{**dict.fromkeys(BYTE_RANGE), **row} for row in table.select(columns).to_pylist()]
    places = [(row["uri"], row["byte_offset"], row["sha256"]) for row in rows]
    wanted = {place: row | {"place": place} for place, row in zip(places, rows, strict=True)}
    found: dict[tuple[Any, ...], Packed] = {
        packed.row["place"]: packed for packed in with_pictures(wanted.values(), fetch)
    }
    pictures: list[dict[str, Any] | None] = []
    for place in places:
        packed = found[place]
        if packed.file is None:
            left[packed.problem] += 1
        name = packed.file and f"{packed.row['key'][:32]}.{packed.file.extension}"
        pictures.append({"bytes": packed.file.content, "path": name} if packed.file else None)
    return pictures
