"""Run the notebooks from top to bottom, and store their outputs in them: python notebooks/update.py [NAME ...].

A test compares the stored outputs with those of a new run.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
TIMEOUT_S = 600
# What differs from run to run, and what stands in its place in a comparison.
VARIABLE = (
    (r"/tmp/[\w./-]*?(?=/(?:out|pictures|train|set|circles|new)\b)|/tmp/tmp\w+", "FOLDER"),
    (r"\d{8}T\d{6}-[0-9a-f]{8}", "RUN"),
    (r"\b(?:\d+ min )?\d[\d.]* (?=s\b|a second|ms\b|GB|MB)", "N "),
    (r"\b0x[0-9a-f]+", "ADDRESS"),
)


def run(path: Path) -> Any:
    """Return the notebook with the outputs of a new run, which works in a temporary folder."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=TIMEOUT_S, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    # The kernel adds its version and the like.
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def comparable(notebook: Any) -> list[list[tuple[str, str]]]:
    """Return the outputs of each code cell as pairs of a kind and a text without what differs from run to run.

    Of a picture, the text is its kind only, because another version of a library may compress it differently. Texts of
    one stream are joined, because the kernel divides a stream at moments of its own.
    """
    return [_joined(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]


def _joined(outputs: Sequence[Any]) -> list[tuple[str, str]]:
    joined: list[tuple[str, str]] = []
    for kind, text in (pair for output in outputs for pair in _pairs(output)):
        if joined and joined[-1][0] == kind and kind in ("stdout", "stderr"):
            joined[-1] = kind, joined[-1][1] + text
        else:
            joined.append((kind, text))
    return joined


def _pairs(output: Any) -> list[tuple[str, str]]:
    if output.output_type == "stream":
        return [(output.name, _constant(output.text))]
    if output.output_type == "error":
        return [("error", output.ename)]
    kinds = sorted(output.data)
    return [(kind, _constant(output.data[kind]) if kind == "text/plain" else "") for kind in kinds]


def _constant(text: str) -> str:
    for pattern, name in VARIABLE:
        text = re.sub(pattern, name, text)
    return text


def main(names: list[str]) -> None:
    """Update the notebooks of these names, or all of them."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            nbformat.write(run(path), path)
            print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
