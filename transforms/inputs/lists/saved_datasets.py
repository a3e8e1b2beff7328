"""Folders that `datasets.save_to_disk` writes: Arrow files, and JSON files that name them and the splits."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Collection, Iterable
from typing import Any

from ...io.files import MAX_JSON_BYTES, read_if_there
from ...io.uris import LOCAL, scheme_of

STATE, SPLITS = "state.json", "dataset_dict.json"


def is_saved_dataset(folder: str) -> bool:
    """Return whether a local folder is one that `save_to_disk` has written, of one split or of several."""
    return scheme_of(folder) == LOCAL and any(os.path.isfile(f"{folder}/{name}") for name in (STATE, SPLITS))


def find_saved_split(folder: str, split: str) -> str:
    """Return the folder of a split of a saved dataset.

    Raises:
        ValueError: if the folder is no saved dataset, or has no such split.
        OSError: if a file can't be read.
    """
    folder = folder.rstrip("/")
    if (several := _read_json(f"{folder}/{SPLITS}")) is not None:
        names = [name for name in _listed(several, "splits") if isinstance(name, str)]
        if split in names:
            return f"{folder}/{split}"
    elif (state := _read_json(f"{folder}/{STATE}")) is not None:
        names = [name for name in [state.get("_split")] if name]
        if split in names:
            return folder
    else:
        raise ValueError(
            f"--split {split}: manifest {folder} is no folder of datasets.save_to_disk: leave out --split, or name a "
            "dataset of the Hugging Face hub as hf://datasets/OWNER/NAME"
        )
    raise ValueError(f"--split {split}: {folder} has no such split: choose of {', '.join(names) or 'none'}")


def check_complete(states: Iterable[str], tables: Collection[str]) -> None:
    """Check that the Arrow files of saved datasets are all there.

    Args:
        states: the paths of files ``STATE``. One of another program is passed over.
        tables: the paths of all tables that were found.

    Raises:
        ValueError: if an Arrow file is missing. Without it, rows would be missing unnoticed.
        OSError: if a file can't be read.
    """
    there = set(tables)
    for path in states:
        files = _listed(_read_json(path) or {}, "_data_files")
        for name in (file.get("filename") for file in files if isinstance(file, dict)):
            wanted = f"{posixpath.dirname(path)}/{name}"
            if name and wanted not in there:
                raise ValueError(f"manifest {wanted}: {path} names this file, which is missing: save the dataset again")


def _listed(values: dict[str, Any], name: str) -> list[Any]:
    """Return a value that is a list; [] for all else, since another program may have written the file."""
    found = values.get(name)
    return found if isinstance(found, list) else []


def _read_json(path: str) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is no such file, or it holds something else."""
    try:
        content = json.loads(read_if_there(path, MAX_JSON_BYTES) or b"")
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
