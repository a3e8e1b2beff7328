"""Every notebook runs from top to bottom, and is kept with the outputs of such a run, without noise."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SPEC = importlib.util.spec_from_file_location("update", FOLDER / "update.py")
assert SPEC and SPEC.loader
update = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(update)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_stored_outputs_are_those_of_a_new_run(path):
    stored = nbformat.read(path, as_version=4)
    assert update.comparable(update.run(path)) == update.comparable(stored), "run make notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_outputs_of_one_run_and_without_noise(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "data" in output]
    assert path.stat().st_size < 1 << 20


@pytest.mark.parametrize("name", ["quickstart", "training_set", "your_own_pipeline"])
def test_the_outputs_of_a_notebook_have_pictures(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    assert [output for cell in cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]


def test_what_differs_from_run_to_run_is_not_compared():
    def stream(text):
        cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)])
        return update.comparable(nbformat.v4.new_notebook(cells=[cell]))

    one = stream("pace 3 pictures in 2.5 s, 1.2 a second\nrecord /tmp/tmpab/out/runs/20261129T150339-36f5c81e.json")
    two = stream(
        "pace 3 pictures in 1 min 12 s, 0.2 a second\nrecord /tmp/tmpcd/out/runs/20271129T150339-a6f5c81e.json"
    )
    assert one == two != stream("pace 4 pictures in 2.5 s, 1.2 a second\nrecord FOLDER/out/runs/RUN.json")
