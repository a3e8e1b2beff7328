"""Write the dataset card, README.md, with which `datasets.load_dataset` loads an output.

`datasets` names its cache by the last part of a path and a digest of the configs in the card. Each config of ours has a
description with a state, which is new whenever rows were added. Otherwise `datasets` returns the rows of an earlier
state, or those of another output whose folder has the same name.
"""

from __future__ import annotations

import io
import json
import os
import re
import uuid
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.row_schema import annotation_schema, failure_schema
from ..io.object_stores.file_systems import FileSystems
from .files import exists, glob_files, is_local, write_atomic
from .layout import CARD_NAME, DATA, EMPTY_PART, ERRORS, draft_path

CARD = """\
---
configs:
- config_name: default
  data_files: data/*.parquet
  description: {state}
- config_name: errors
  data_files: errors/*.parquet
  description: {state}
tags:
- moondream-beam
---
# Annotated images

`data/` has one row for each task on each image. `errors/` has one row for each task that failed, with the reason.
`runs/` has one JSON file for each run: model, tasks, counts and cost.

```python
from datasets import load_dataset

annotations = load_dataset("{output}", split="train")
errors = load_dataset("{output}", "errors", split="train")
```

If `errors/` has no rows, because no task failed, `load_dataset` raises an error that contains "corresponds to no data".
"""

# written: there was none. updated: it is as we wrote it, except for its state. edited: others changed it, and only its
# state is ours to change. foreign: it has no config of ours, and stays as it is.
CardOutcome = Literal["written", "updated", "edited", "foreign"]

_UNEDITED = re.compile(
    re.escape(CARD).replace(re.escape("{output}"), "[^\n]*").replace(re.escape("{state}"), "[^\n]*"), re.ASCII
)
_STATE = re.compile(r"([ -]*description:\s*)(['\"]?)moondream-beam run (.*), state [0-9a-f]{8}\2\s*")
_DATA_FILES = re.compile(rf"([ -]*)data_files:\s*(['\"]?)(?:{DATA}|{ERRORS})/\*\.parquet\2\s*")
_DESCRIPTION = re.compile(r"[ -]*description:.*", re.DOTALL)


def write_card(
    output: str, columns: Sequence[pa.Field] = (), run: str = "", *, has_new_rows: bool = True
) -> CardOutcome:
    """Update the card, and write a Parquet file without rows to ``data/`` or ``errors/`` if that folder has no file.

    Readers take the names and types of columns from the file without rows.

    Args:
        columns: the columns of a manifest that the rows keep.
        run: the run that writes the card.
        has_new_rows: give the card a new state. Without it, a card that has a state keeps that.
    """
    outcome = update_card(output, run, has_new_rows=has_new_rows)
    for kind, schema in ((DATA, annotation_schema(columns)), (ERRORS, failure_schema(columns))):
        folder = FileSystems.join(output, kind)
        if not glob_files(FileSystems.join(folder, "*.parquet")):
            empty = io.BytesIO()
            pq.ParquetWriter(empty, schema).close()
            write_atomic(FileSystems.join(folder, EMPTY_PART), empty.getvalue(), draft_path(output, run))
    return outcome


def begin_card(output: str, run: str) -> None:
    """Give the card a state of this run, unless it has one. If there is no card, write one.

    A run calls this before it writes its first file. Without a card, `datasets` reads all files of the output as rows,
    also those of a run that was killed.
    """
    if run not in _states(_read(output) or ""):
        update_card(output, run)


def update_card(output: str, run: str, *, has_new_rows: bool = True) -> CardOutcome:
    """Give the card a new state. If there is no card, write one.

    In a card that others have edited, only the lines with a state change. If such a card has a config of ours without a
    description, one is added. A card without a config of ours, a link and a folder stay as they are.

    Args:
        run: the run that has added rows.
        has_new_rows: if false, a card that has a state is not written.
    """
    text = _read(output)
    if text is None:
        return "foreign"
    state = json.dumps(f"moondream-beam run {run}, state {uuid.uuid4().hex[:8]}", ensure_ascii=False)
    outcome: CardOutcome
    if not text or is_generated(text):
        new, outcome = CARD.format(output=output, state=state), "updated" if text else "written"
    else:
        new = _with_state(text, state)
        outcome = "edited" if new else "foreign"
    if new and (has_new_rows or not _states(text)):
        content = new.encode("utf-8", "surrogateescape")
        write_atomic(FileSystems.join(output, CARD_NAME), content, draft_path(output, run))
    return outcome


def is_generated(text: str) -> bool:
    """Return whether a card is as we wrote it, except for its state."""
    return _UNEDITED.fullmatch(text) is not None


def _read(output: str) -> str | None:
    """Return the text of the card, "" if there is none, or None if there is a link or a folder in its place."""
    path = FileSystems.join(output, CARD_NAME)
    if is_local(output) and (os.path.islink(path) or os.path.isdir(path)):
        return None
    if not exists(path):
        return ""
    with FileSystems.open(path) as file:
        content: bytes = file.read()
    # An empty file is not ours.
    return content.decode("utf-8", "surrogateescape") or "\n"


def _states(text: str) -> list[str]:
    """Return the runs in the states of a card."""
    return [match[3] for line in _front_matter(text) if (match := _STATE.fullmatch(line))]


def _front_matter(text: str) -> list[str]:
    """Return the lines of the YAML at the beginning of a card, from ``---`` up to the next ``---``, with line ends.

    Returns:
        An empty list if the card does not begin with YAML.
    """
    lines = text.splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"][:2]
    return lines[: ends[1]] if len(ends) == 2 and ends[0] == 0 else []


def _with_state(text: str, state: str) -> str:
    """Return a card with this state in place of the old one, or "" if it has neither a state nor a config of ours.

    One state is enough: the digest of `datasets` is over all configs.
    """
    front = _front_matter(text)
    rest = text[len("".join(front)) :]
    if any(map(_STATE.fullmatch, front)):
        return "".join(_STATE.sub(lambda match: f"{match[1]}{state}{_end(match[0])}", line) for line in front) + rest
    for number, line in enumerate(front):
        if (match := _DATA_FILES.fullmatch(line)) and not _has_description(front, number, indent := len(match[1])):
            added = f"{' ' * indent}description: {state}{_end(line)}"
            return "".join([*front[: number + 1], added, *front[number + 1 :]]) + rest
    return ""


def _has_description(lines: Sequence[str], number: int, indent: int) -> bool:
    """Return whether the mapping that contains a line has a description. Its keys are indented by ``indent``."""
    first = last = number
    while first and lines[first].startswith(" " * indent):
        first -= 1
    while last + 1 < len(lines) and lines[last + 1].startswith(" " * indent):
        last += 1
    return any(_DESCRIPTION.match(line) for line in lines[first : last + 1])


def _end(line: str) -> str:
    return line[len(line.rstrip()) :]
