"""Find the Parquet files of a split in a dataset of the Hugging Face hub, and the column of its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pyarrow as pa

from ...io.column_types import is_bytes
from ...io.containers.location import COLUMNAR, PARQUET
from ...io.containers.parquet_images import BYTES
from ...io.files import open_file
from ...io.object_stores.base import Stores, pin_commit
from ...io.object_stores.hub_path import HubPath
from ...io.parquet import open_table
from ...io.retry import FetchError, RetryPolicy
from ..bucket_listing import GlobLister, PendingFolder

DEFAULT_CONFIG, README = "default", "README.md"
CONVERTED = "refs/convert/parquet"
# The hub converts only the beginning of a large split.
PARTIAL = "partial-"
# Names that `datasets` writes: CONFIG/SPLIT-00000-of-00002.parquet, where data/ is the folder of the default config.
_WRITTEN = re.compile(r"(?:([^/]+)/)?([\w.]+?)-\d{5}-of-\d{5}\.parquet")
_CONVERTED = re.compile(r"([^/]+)/([^/]+)/[^/]+\.parquet")
MAX_CHOICES = 20

# The patterns of Parquet files, relative to the dataset, by config and split.
Splits = dict[tuple[str, str], list[str]]


def find_split(dataset: str, config: str | None, split: str | None) -> list[str]:
    """Return patterns of the Parquet files of a split, or of all splits of a config.

    They are looked for in the configs of the card, then by the names that `datasets` gives files, and then in the
    branch with the hub's own conversion.

    Args:
        dataset: ``hf://datasets/OWNER/NAME`` with a commit.
        config: None: the only config, or the one that is named ``default``.
        split: None: all splits.

    Raises:
        ValueError: if ``dataset`` names a path inside of one, there is no such config or split, the config is not
            given and there are several, or the hub has converted only a part of the split.
        RuntimeError: if the hub can't be reached.
        OSError: if the dataset can't be listed.
    """
    at = HubPath.parse(dataset)
    if at.path.strip("/"):
        raise ValueError(f"{dataset}: --split and --config are for a whole dataset: leave out the path, or the options")
    known: Splits = {}
    for root, splits in _sources(at):
        known |= splits
        names = {name for name, _ in splits}
        chosen = config or (DEFAULT_CONFIG if DEFAULT_CONFIG in names else min(names) if len(names) == 1 else None)
        wanted = [key for key in splits if key[0] == chosen and split in (None, key[1].removeprefix(PARTIAL))]
        if partial := [key for key in wanted if key[1].startswith(PARTIAL)]:
            folder = root._replace(path="/".join(partial[0])).uri
            raise ValueError(
                f"{dataset}: the hub has converted only the first part of split {partial[0][1].removeprefix(PARTIAL)}: "
                f"to read that part, give --manifest {folder} without --split and --config"
            )
        if wanted:
            patterns = dict.fromkeys(pattern for key in wanted for pattern in splits[key])
            return [root._replace(path=pattern).uri for pattern in patterns]
    choices = ", ".join(f"--config {name} --split {part}" for name, part in sorted(known)[:MAX_CHOICES])
    if not choices:
        raise ValueError(f"{dataset}: it has no Parquet file, and the hub has converted none: give a path in it")
    asked = f"--config {config} " * bool(config) + f"--split {split}" * bool(split)
    raise ValueError(f"{dataset}: it has no {asked.strip() or 'only config'} in Parquet: choose of {choices}")


def find_image_column(path: str, unless: str) -> str | None:
    """Return the name of the column with the pictures of a Parquet or Arrow file.

    It is the one with the feature ``Image`` of `datasets`. Without features, it is the one with a struct that has
    ``bytes``.

    Returns:
        None if there is no such column, the file has a column ``unless``, or it is no such file.

    Raises:
        ValueError: if there are several such columns.
        OSError: if it can't be read.
    """
    if not path.lower().endswith(COLUMNAR):
        return None
    with open_file(path) as file:
        try:
            schema = open_table(path, file).schema_arrow
        except ValueError:
            return None
    if unless in schema.names:
        return None
    found = _image_features(schema) or [field.name for field in schema if _holds_image(field.type)]
    if len(found) > 1:
        raise ValueError(f"manifest {path} has several columns of pictures: give --image-column {' or '.join(found)}")
    return found[0] if found else None


def _image_features(schema: pa.Schema) -> list[str]:
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return [name for name, kind in features.items() if kind.get("_type") == "Image" and name in schema.names]
    except (ValueError, KeyError, TypeError, AttributeError):
        # Other programs may have changed this metadata.
        return []


def _holds_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(field.name == BYTES and is_bytes(field.type) for field in kind)


def _sources(at: HubPath) -> Iterator[tuple[HubPath, Splits]]:
    """Yield each source of splits: the dataset at its revision, and the Parquet files of each config and split."""
    root = at._replace(path="")
    paths = [path for path in _list(root, "**") if path.endswith(PARQUET)]
    if paths:
        if configs := _card_splits(root):
            yield root, configs
        yield root, _named_splits(paths, _WRITTEN, {"data": DEFAULT_CONFIG, None: DEFAULT_CONFIG})
    try:
        converted = HubPath.parse(pin_commit(root._replace(revision=CONVERTED).uri))
    except ValueError:
        # The hub has converted nothing.
        return
    yield converted, _named_splits(_list(converted, "**"), _CONVERTED, {})


def _named_splits(paths: list[str], form: re.Pattern[str], configs: dict[str | None, str]) -> Splits:
    splits: Splits = {}
    for path in paths:
        if match := form.fullmatch(path):
            config = configs.get(match[1], match[1])
            stem = path[: match.end(2)]
            pattern = f"{stem}-*-of-*{PARQUET}" if form is _WRITTEN else f"{stem}/*{PARQUET}"
            if pattern not in splits.setdefault((config, match[2]), []):
                splits[config, match[2]].append(pattern)
    return splits


def _card_splits(root: HubPath) -> Splits:
    """Return the splits of the configs in the card whose patterns match Parquet files only."""
    uri = root._replace(path=README).uri
    try:
        card = Stores().read_range(uri, 0, 1 << 20, RetryPolicy()).decode(errors="replace")
        # Loaded here, because importing it takes long, and few inputs are on the hub.
        dataset_card = import_module("huggingface_hub").DatasetCard
        configs = dataset_card(card, ignore_metadata_errors=True).data.to_dict().get("configs") or []
    except (FetchError, ValueError):
        # No card, or one that is broken. The files have names too.
        return {}
    splits: Splits = {}
    for config in (each for each in configs if isinstance(each, dict)):
        for split, pattern in _data_files(config.get("data_files")):
            pattern = f"{config.get('data_dir', '')}/{pattern}".lstrip("/")
            found = _list(root, pattern)
            if found and all(path.endswith(PARQUET) for path in found):
                splits.setdefault((str(config.get("config_name", DEFAULT_CONFIG)), split), []).append(pattern)
    return splits


def _data_files(given: Any) -> Iterator[tuple[str, str]]:
    """Yield split and pattern of the ``data_files`` in a card: one pattern, a list of them, or splits with either."""
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, str):
            yield "train", each
        elif isinstance(each, dict) and "split" in each:
            paths = each.get("path")
            yield from ((str(each["split"]), path) for path in (paths if isinstance(paths, list) else [paths]) if path)


def _list(root: HubPath, pattern: str) -> list[str]:
    """Return the paths in a dataset that a pattern matches."""
    lister = GlobLister(Stores(), RetryPolicy(), frozenset())
    found: list[str] = []
    for each in lister.list_first_level(root._replace(path=pattern).uri):
        below = lister.list_folder(each) if isinstance(each, PendingFolder) else [each]
        found += [HubPath.parse(ref.uri).path for ref in below if not ref.skipped]
    return found
