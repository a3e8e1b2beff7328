"""``moondream-beam push``: upload an output to a dataset on the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...models.moondream.checkpoints.hub import PINNED
from ...models.moondream.checkpoints.releases import BSL, RELEASES
from ...models.moondream.names import FLOAT8
from ...transforms.dataset.push.card import make_card
from ...transforms.dataset.push.files import Part, list_parts, pushed_schema, stage_batches
from ...transforms.dataset.push.upload import Repository
from ...transforms.dataset.reader import Dataset, duckdb_errors
from ...transforms.images.fetch import Fetcher
from ...transforms.io.object_stores.file_systems import FileSystems
from ...transforms.output.files import exists
from ...transforms.output.layout import CARD_NAME, DATA, REPORT_NAME
from ..options.parser import startup_errors

STOPPED_EARLY = 1


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Returns:
        1 if the upload stopped early, or a picture could not be embedded; else 0.

    Raises:
        StartupError: if an argument is bad, the output does not exist, or the dataset can't be written to.
    """
    with startup_errors():
        with duckdb_errors(args.output), Dataset(args.output) as dataset:
            parts = list_parts(dataset.output)
            schema = pushed_schema(_schema(parts), with_images=args.with_images)
            card = make_card(dataset, args.dataset, schema, _read(dataset.path(CARD_NAME)).decode(), licence_of)
            report = _read(dataset.path(REPORT_NAME)) or None
            ((rows, local),) = dataset.tuples("SELECT count(*), count(*) FILTER (uri LIKE '/%') FROM data")
        repository = Repository(args.dataset, private=args.private)
    _print_paths(args, local, rows, report)
    left: Counter[str] = Counter()
    fetch = Fetcher(args.allow_private_addresses) if args.with_images else None
    try:
        with tempfile.TemporaryDirectory(prefix="moondream-beam-push-") as folder:
            for _ in stage_batches(parts, Path(folder), fetch, left):
                repository.upload(Path(folder))
        has_card = repository.finish(card, report, [part.name for part in parts])
    except (RuntimeError, OSError) as error:
        print(f"moondream-beam push: {error}", file=sys.stderr)
        return STOPPED_EARLY
    print(f"{rows} rows in {len(parts)} files are in {repository.url}")
    if not has_card:
        print(f"the card there was written or edited by others, so it was kept: {repository.url}", file=sys.stderr)
    for reason, count in left.items():
        print(f"{count} of the rows have no picture; each {reason}", file=sys.stderr)
    return 1 if left else 0


def licence_of(model: str) -> str:
    """Return the licence of the weights of a model, by its name: "unknown" for models that are not official."""
    if model == FLOAT8:
        return BSL
    if model in PINNED:
        return RELEASES[PINNED[model][1]].licence or "Apache License 2.0"
    return "unknown: see where the model comes from"


def _schema(parts: Sequence[Part]) -> pa.Schema:
    """Return the columns of the files in ``data``, in the order of their first appearance."""
    schemas = []
    for part in parts:
        if part.name.startswith(f"{DATA}/"):
            with FileSystems.open(part.path) as file:
                schemas.append(pq.read_schema(file).remove_metadata())
    return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])


def _read(path: str) -> bytes:
    """Return the content of a file, or nothing if there is none."""
    if not exists(path):
        return b""
    with FileSystems.open(path) as file:
        content: bytes = file.read()
    return content


def _print_paths(args: argparse.Namespace, local: int, rows: int, report: bytes | None) -> None:
    """Print that paths of this machine are uploaded, if any are."""
    if local:
        also = f", and {REPORT_NAME} shows them too" if report else ""
        print(f"note: the column uri of {local} of {rows} rows has paths of this machine{also}", file=sys.stderr)
