"""A few answers of a run as a table on the terminal, and the commands to type next."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from ...transforms.io.object_stores.file_systems import FileSystems
from ...transforms.io.uris import escape_non_utf8
from ...transforms.output.files import glob_files, is_local
from ...transforms.output.layout import DATA, REPORT_NAME, run_parts
from .formatting import format_table

MAX_ROWS_SHOWN = 8
# Rows of the first file that are sorted before the first of them are shown.
NUM_SORTED_ROWS = 1024
COLUMNS = ("filename", "task", "prompt", "answer")
READ_COLUMNS = ["filename", "task", "prompt", "caption", "objects", "points"]
# Characters of a cell in all columns but the last one. An answer gets the rest of the line, and at least as many.
MAX_CELL = 32


def format_answers(output: str, run: str) -> Iterator[str]:
    """Yield the lines of a table with the first answers of a run, sorted by filename and task.

    If the run has no answer, they are those of earlier runs. Yield nothing if the output has no answer.
    """
    rows = [[_cell(text) for text in row] for row in _first_answers(output, run)]
    if not rows:
        return
    short = [[*(_cut(text, MAX_CELL) for text in cells), answer] for *cells, answer in (COLUMNS, *rows)]
    used = sum(max(len(row[number]) for row in short) + 2 for number in range(len(COLUMNS) - 1))
    room = max(MAX_CELL, shutil.get_terminal_size().columns - used)
    yield from format_table([[*cells, _cut(answer, room)] for *cells, answer in short])


def format_next_steps(output: str, has_report: bool) -> Iterator[str]:
    """Yield lines with what to do with the answers: read them, look at them, export them."""
    if has_report:
        yield f"next     look at the pictures: open {FileSystems.join(output, REPORT_NAME)} in a browser"
    elif is_local(output):
        yield f"next     look at the pictures: moondream-beam report {output}"
    else:
        yield f"next     count what is there: moondream-beam status {output}"
    yield f'         read the answers in Python: pandas.read_parquet("{FileSystems.join(output, DATA)}")'
    yield f"         export the answers for training: moondream-beam export {output} answers.jsonl --to jsonl"


def _first_answers(output: str, run: str) -> list[tuple[str, str, str, str]]:
    """Return up to MAX_ROWS_SHOWN answers from the first file that has some. The files of the run are the first."""
    own, all_parts = (
        sorted(glob_files(FileSystems.join(output, DATA, names))) for names in (run_parts(run), "*.parquet")
    )
    for path in dict.fromkeys([*own, *all_parts]):
        with FileSystems.open(path) as file:
            batches = pq.ParquetFile(file).iter_batches(NUM_SORTED_ROWS, columns=READ_COLUMNS)
            rows = next(batches, None)
        if rows is not None and rows.num_rows:
            ordered = rows.sort_by([(name, "ascending") for name in ("filename", "task", "prompt")]).slice(
                0, MAX_ROWS_SHOWN
            )
            return [(row["filename"], row["task"], row["prompt"], _answer(row)) for row in ordered.to_pylist()]
    return []


def _answer(row: dict[str, Any]) -> str:
    """Return the text of a row, or its boxes or points such as "(0.10, 0.25)", or "none" if it has no place."""
    if isinstance(caption := row["caption"], str):
        return caption
    places = row["objects"] if row["objects"] is not None else row["points"] or []
    return " ".join(f"({', '.join(f'{number:.2f}' for number in place.values())})" for place in places) or "none"


def _cell(text: str) -> str:
    """Return a text on one line. Other control characters could change the terminal."""
    return "".join(each if each.isprintable() else " " for each in escape_non_utf8(" ".join(text.split())))


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 3]}..."
