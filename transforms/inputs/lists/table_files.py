"""Find the files of tables: by name, by glob, and in folders such as Spark, Dask and other writers make."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from ...core.records import UNLISTED, ImageRef
from ...io.containers.location import COLUMNAR
from ...io.object_stores.base import Stores
from ...io.retry import FetchError, RetryPolicy
from ...io.uris import HUB, LOCAL, OBJECT_STORE_SCHEMES, scheme_of
from ..bucket_listing import GlobLister, OtherFiles, PendingFolder
from ..disk_listing import list_glob
from ..patterns.patterns import expand_pattern
from .saved_datasets import STATE, check_complete

CSV, JSON_LINES, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)
KINDS = CSV + JSON_LINES + COLUMNAR
CURES = {
    (".xlsx", ".xlsm", ".xls", ".ods", ".numbers"): "this is a spreadsheet: save its sheet as CSV in UTF-8",
    (".zip", ".7z", ".rar", ".tar", ".tgz"): "this is an archive: unpack it, and give the table inside",
    (".bz2", ".xz", ".zst", ".lz4"): "only gzip is decompressed here: unpack it",
    (".json",): "write one JSON object on each line, without a list around them, and name the file .jsonl",
    (".txt", ".tab", ".dat"): "if its first line names the columns, rename it to .csv or .tsv",
    (".pq", ".parq"): "rename it to .parquet",
    (".orc", ".avro", ".db", ".sqlite", ".pkl"): "write the table as Parquet",
}
ICEBERG = "metadata"
# The folder beside or above the files of a table that only its own library knows to read, what such a table is called,
# and how its rows are written to plain Parquet.
TABLE_FORMATS = {
    "_delta_log": ("a Delta table", "polars.read_delta(TABLE).write_parquet(FILE) (package deltalake)"),
    ICEBERG: ("an Iceberg table", "polars.scan_iceberg(METADATA_JSON).sink_parquet(FILE) (package pyiceberg)"),
    ".hoodie": ("a Hudi table", "spark.read.format('hudi').load(TABLE).write.parquet(FOLDER)"),
    "_spark_metadata": ("the output of a stream of Spark", "spark.read.parquet(TABLE).write.parquet(FOLDER)"),
}
# What Spark, Hadoop, Dask and Databricks write beside the parts of a table; and what `datasets` writes beside its Arrow
# files, with the results of `map` and `filter`, which have the rows of the dataset again.
_BOOKKEEPING = re.compile(
    r"_SUCCESS|_(?:common_)?metadata|_(?:committed|started)_\d+|.*\.crc|state\.json|dataset_(?:info|dict)\.json"
    r"|cache-[0-9a-f]{16}(?:_\d{5}_of_\d{5})?\.arrow"
)
# Written by Hive for a null.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def kind_of(path: str) -> str:
    """Return the extension of a table in lower case, such as ``.csv`` for ``A.CSV.gz``.

    Raises:
        ValueError: if the extension is not in ``KINDS``, or the file is compressed Parquet or Arrow.
    """
    stem = path[:-3] if path.lower().endswith(".gz") else path
    kind = posixpath.splitext(stem)[1].lower()
    if kind not in KINDS or (kind in COLUMNAR and stem != path):
        last = posixpath.splitext(path)[1].lower()
        cure = next((cure for endings, cure in CURES.items() if last in endings), "rename or convert it")
        raise ValueError(f"manifest {path}: its name ends with none of {', '.join(KINDS)}: {cure}")
    return kind


def is_table(path: str) -> bool:
    """Return whether a name ends like that of a table."""
    try:
        return bool(kind_of(path))
    except ValueError:
        return False


def list_manifests(pattern: str) -> Iterator[str]:
    """Yield the paths that an absolute pattern matches; see ``find_manifests``."""
    yield from (found for found in find_manifests(pattern) if isinstance(found, str))


def find_manifests(pattern: str) -> Iterator[str | ImageRef]:
    """Yield the paths that an absolute pattern matches, sorted, and what is skipped in folders; see ``list_tables``.

    Braces stand for several patterns, as in ``images.expand_pattern``.

    Raises:
        ValueError: if the pattern or one of the files can't be a manifest.
        OSError: if a folder can't be listed, or a name without wildcards that braces stand for does not exist.
    """
    for name in (names := expand_pattern(pattern, Stores())):
        found = list(list_tables(name))
        has_path = any(isinstance(each, str) for each in found)
        if len(names) > 1 and not has_path and not glob.has_magic(name):
            raise FileNotFoundError(f"manifest {name}: no such file: add it, or leave it out of the braces")
        yield from found


def list_tables(pattern: str) -> Iterator[str | ImageRef]:
    """Yield the paths of the tables that an absolute pattern matches, sorted, and what is skipped in folders.

    An existing name matches itself, wildcards or not. A folder stands for the tables in it, however deep. In a folder,
    hidden files and the writer's own files, such as ``_SUCCESS``, are passed over. Files of other kinds, and those
    whose name or folder begins with ``_``, become references with ``skipped``.

    Raises:
        ValueError: if a name does not end like that of a table, the pattern is neither a path nor in a bucket, a file
            belongs to a table of ``TABLE_FORMATS``, or a file of a saved dataset is missing.
        OSError: if a folder or bucket can't be listed.
    """
    if scheme_of(pattern) not in (LOCAL, *OBJECT_STORE_SCHEMES):
        raise ValueError(f"manifest {pattern}: give a local path, or a URI with {', '.join(OBJECT_STORE_SCHEMES)}")
    tables: list[str] = []
    others, states = OtherFiles(), []
    for path, root in _BucketFiles().find(pattern) if scheme_of(pattern) != LOCAL else _find_local(pattern):
        name = path[len(root) :]
        states += [path] * (posixpath.basename(path) == STATE)
        parts = name.split("/")
        if root and (any(part.startswith(".") for part in parts) or _is_bookkeeping(name)):
            continue
        if root and (not is_table(path) or any(part.startswith("_") for part in parts)):
            others.add(posixpath.dirname(path), name)
            continue
        kind_of(path)
        tables.append(path)
    tables = sorted(set(tables))
    check_complete(states, tables)
    _refuse_table_formats([pattern, *_folders_above(path for path in tables if kind_of(path) in PARQUET)])
    yield from tables
    yield from others.refs()


def partitions_of(path: str) -> dict[str, str | None]:
    """Return the columns that the folders of a path name as ``key=value``, as Hive and Spark write them."""
    found = {}
    for part in posixpath.dirname(path).split("/"):
        key, equals, value = part.partition("=")
        if equals and key:
            found[unquote(key)] = None if value == NULL_PARTITION else unquote(value)
    return found


def _is_bookkeeping(name: str) -> bool:
    """Return whether a writer of tables made this file for itself; see ``_BOOKKEEPING``."""
    return _BOOKKEEPING.fullmatch(posixpath.basename(name)) is not None


def _find_local(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield each file that a pattern matches, and the folder with its slash in which it was found; "" if named.

    Raises:
        OSError: if a folder can't be listed. Without it rows would be missing unnoticed.
    """
    if os.path.lexists(pattern):
        yield from _walk(pattern) if os.path.isdir(pattern) else [(pattern, "")]
        return
    for ref in list_glob(pattern):
        if ref.skipped and ref.skipped.kind.startswith(UNLISTED):
            raise OSError(f"manifest {pattern}: {ref.uri}: {ref.skipped.kind}: make it readable")
        if not ref.skipped and not _is_bookkeeping(ref.uri):
            yield ref.uri, ""
    for path in filter(os.path.isdir, glob.glob(pattern, recursive=True)):
        if _is_part_folder(path):
            yield from _walk(path)
        elif not pattern.endswith("**"):
            raise ValueError(f"manifest {path}: this is a folder: name it itself, or match the tables in it")


def _is_part_folder(path: str) -> bool:
    """Return whether a folder has the name of a table, or of a part of one."""
    return is_table(path) or "=" in posixpath.basename(path)


def _walk(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the files below a local folder, linked folders too, each folder once.

    Raises:
        OSError: if a folder can't be listed. Without it rows would be missing unnoticed.
    """

    def stop(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for here, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        folders.sort()
        yield from ((os.path.join(here, name), folder.rstrip("/") + "/") for name in files)


class _BucketFiles:
    """Finds files in buckets as ``_find_local`` does on this machine."""

    def __init__(self) -> None:
        self._stores, self._retry_policy = Stores(), RetryPolicy()

    def find(self, pattern: str) -> Iterator[tuple[str, str]]:
        """Yield each object that a pattern matches, and the folder in which it was found; "" if named."""
        lister = GlobLister(self._stores, self._retry_policy, frozenset(KINDS))
        # Consoles create an object whose name ends with a slash for an empty folder.
        if not pattern.endswith("/") and lister.exists(pattern):
            yield pattern, ""
            return
        if not glob.has_magic(pattern):
            yield from self._walk(pattern.rstrip("/") + "/")
            return
        for path in self._match(lister, pattern):
            if not _is_bookkeeping(path):
                yield path, ""
        if "**" not in pattern:
            # A glob for objects does not match folders, and the folders of Spark are named like files.
            depth = pattern.rstrip("/").count("/") + 1
            for path in self._match(lister, pattern.rstrip("/") + "/**"):
                folder = "/".join(path.split("/")[:depth])
                if _is_part_folder(folder):
                    yield path, folder + "/"

    def holds(self, folder: str, name: str) -> bool:
        """Return whether a folder holds the folder ``name``; ``metadata`` only with the files of Iceberg."""
        # Iceberg counts its files from 00000 or v1. Without these prefixes a large folder would be listed in full.
        prefixes = [f"{folder}/{name}/{digit}" for digit in ("0", "v")] if name == ICEBERG else [f"{folder}/{name}/"]
        try:
            return any(
                name != ICEBERG or ".metadata.json" in uri for prefix in prefixes for uri, _ in self._walk(prefix)
            )
        except FetchError as error:
            if error.fault.retryable:
                raise
            # Who may read the files of a folder may not be allowed to list the folders above.
            return False

    def _walk(self, folder: str) -> Iterator[tuple[str, str]]:
        for entry in self._stores.entries(scheme_of(folder), folder, True, self._retry_policy):
            if not entry.uri.endswith("/"):
                yield entry.uri, folder

    def _match(self, lister: GlobLister, pattern: str) -> Iterator[str]:
        for found in lister.list_first_level(pattern):
            below = lister.list_folder(found) if isinstance(found, PendingFolder) else [found]
            yield from (ref.uri for ref in below if not ref.skipped)


def _refuse_table_formats(folders: Iterable[str]) -> None:
    """Raise ValueError if one of the folders is that of a table of ``TABLE_FORMATS``.

    The Parquet files of such a table hold deleted and replaced rows too, which nobody wants to pay for.
    """
    bucket = _BucketFiles()
    for folder in folders:
        holds = bucket.holds if scheme_of(folder) != LOCAL else _holds
        for name, (kind, cure) in TABLE_FORMATS.items():
            if holds(folder, name):
                why = f"this is {kind}, and its Parquet files hold deleted rows too"
                raise ValueError(f"manifest {folder}: {why}: write its rows to another folder, such as by {cure}")


def _folders_above(paths: Iterable[str]) -> Iterator[str]:
    """Yield the folders above paths, up to the root or the bucket, each once, without those of partitions."""
    seen: set[str] = set()
    for path in paths:
        # "azfs://ACCOUNT/CONTAINER" and "hf://datasets/OWNER/NAME" are the buckets of these schemes.
        end = {LOCAL: 1, "azfs": 4, HUB: 5}.get(scheme_of(path), 3)
        parts = path.split("/")[:-1]
        for depth in range(len(parts), end - 1, -1):
            folder = "/".join(parts[:depth])
            if folder in seen:
                break
            seen.add(folder)
            if "=" not in parts[depth - 1]:
                yield folder


def _holds(folder: str, name: str) -> bool:
    """Return whether a local folder holds the folder ``name``; ``metadata`` only with the files of Iceberg."""
    if name != ICEBERG:
        return os.path.isdir(f"{folder}/{name}")
    return bool(glob.glob(f"{glob.escape(folder)}/{name}/*.metadata.json*"))
